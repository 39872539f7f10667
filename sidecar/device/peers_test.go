package device

import (
	"net/netip"
	"testing"

	"github.com/tailscale/wireguard-go/conn"
	wg "github.com/tailscale/wireguard-go/device"

	"github.com/tenantwire/tenantwire/sidecar/key"
)

// TestForgedInitiationDoesNotMoveAPeer sends what anyone can send who knows two public keys' owners: an initiation from
// elsewhere that names the peer but cannot be verified.
func TestForgedInitiationDoesNotMoveAPeer(t *testing.T) {
	w := new(whereabouts)
	home := &conn.StdNetEndpoint{AddrPort: netip.MustParseAddrPort("192.0.2.1:1")}
	away := &conn.StdNetEndpoint{AddrPort: netip.MustParseAddrPort("198.51.100.1:1")}
	w.move(home)
	b := newBind()
	k := key.NewPrivate().Public()
	b.peers[k] = w
	(&origin{StdNetEndpoint: away, b: b, index: 7}).InitiationMessagePublicKey(k)
	if w.at.Load() != home {
		t.Fatal("an unverified initiation moved the peer")
	}
	response := make([]byte, wg.MessageResponseSize)
	response[0] = wg.MessageResponseType
	response[8] = 8 // the answer to another initiation
	w.answering(response)
	if w.at.Load() != home {
		t.Fatal("the answer to another initiation moved the peer")
	}
	(&origin{StdNetEndpoint: away, b: b, index: 8}).InitiationMessagePublicKey(k)
	w.answering(response)
	if w.at.Load() != away {
		t.Fatal("the answer to a verified initiation did not move the peer")
	}
}
