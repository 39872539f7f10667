package device

import (
	"io"
	"testing"
)

func TestEchoBothFamilies(t *testing.T) {
	a, b := pair(t)
	accept(b, 80, echo)
	for _, to := range []struct {
		name string
		addr interface{ String() string }
	}{{"v4", b.v4}, {"v6", b.v6}} {
		t.Run(to.name, func(t *testing.T) {
			addr := b.v4
			if to.name == "v6" {
				addr = b.v6
			}
			c := dial(t, a, addr, 80)
			if _, err := c.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(c)
			if err != nil || string(got) != "hello" {
				t.Fatalf("got %q, %v", got, err)
			}
		})
	}
}
