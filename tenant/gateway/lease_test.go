package gateway

import (
	"maps"
	"net/netip"
	"strings"
	"testing"

	"github.com/tenantwire/tenantwire/sidecar/key"
)

// FuzzParseEndpoints: whoever may write the Lease may write anything, and yet each endpoint is where a handshake can be sent, there are no
// more than a Lease may hold, and what we write of them is read as the same.
func FuzzParseEndpoints(f *testing.F) {
	a, b := key.Public{1}.String(), key.Public{2}.String()
	f.Add(a + "=203.0.113.7:51820 " + b + "=[2001:db8::7]:51820")
	f.Add(a + "=203.0.113.7:51820 " + a + "=203.0.113.8:1")
	f.Add(a + "=0.0.0.0:1 " + b + "=[fe80::1%eth0]:2 =1.2.3.4:5 " + a + "= " + a)
	f.Add(strings.Repeat(" ", 100) + a + "=224.0.0.1:1 " + b + "=255.255.255.255:1 " + a + "=1.2.3.4:0 " + b + "=[::ffff:255.255.255.255]:9")
	var many []string
	for i := range 2 * maxEndpoints {
		many = append(many, key.Public{3, byte(i)}.String()+"=203.0.113.7:51820")
	}
	f.Add(strings.Join(many, " "))
	f.Fuzz(func(t *testing.T, text string) {
		got := parseEndpoints(text)
		if len(got) > maxEndpoints {
			t.Fatalf("%d endpoints", len(got))
		}
		for k, e := range got {
			at := e.Addr().Unmap() // as the system sends it
			if e.Port() == 0 || at.Zone() != "" || at.IsUnspecified() || at.IsMulticast() || at == netip.MustParseAddr("255.255.255.255") {
				t.Errorf("%s at %s", k, e)
			}
			if !strings.Contains(text, k.String()+"=") {
				t.Errorf("nobody wrote of %s", k)
			}
		}
		if again := parseEndpoints(formatEndpoints(got, nil)); !maps.Equal(again, got) {
			t.Errorf("%v came back as %v", got, again)
		}
	})
}
