package device

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

// TestReaderPauses checks that Options.Pause is asked after what was read, whatever it was.
func TestReaderPauses(t *testing.T) {
	asked := make(chan struct{}, 1)
	d, err := Open(Options{PrivateKey: key.NewPrivate(), Interface: datapath.Interface{MTU: 1420, Addresses: []netip.Prefix{netip.MustParsePrefix("10.9.0.1/32")}},
		Pause: func() {
			select {
			case asked <- struct{}{}:
			default:
			}
		}})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	c, err := net.Dial("udp", fmt.Sprintf("127.0.0.1:%d", d.ListenPort()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("no message")); err != nil {
		t.Fatal(err)
	}
	select {
	case <-asked:
	case <-time.After(10 * time.Second):
		t.Fatal("the reader does not pause")
	}
}
