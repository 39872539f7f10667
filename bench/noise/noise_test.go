package noise

import (
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/tuntest"

	"github.com/tenantwire/tenantwire/sidecar/key"
)

// Upstream's device answers what we make: every handshake, with nothing lost, and none of a stranger.
func TestUpstreamAnswers(t *testing.T) {
	d := device.NewDevice(tuntest.NewChannelTUN().TUN(), conn.NewDefaultBind(), device.NewLogger(device.LogLevelSilent, ""))
	defer d.Close()
	own := key.NewPrivate()
	uapi := "private_key=" + own.Hex() + "\n"
	public := own.Public()
	var peers []*Initiator
	newPeer := func() *Initiator {
		k := key.NewPrivate()
		raw, err := hex.DecodeString(k.Hex())
		if err != nil {
			t.Fatal(err)
		}
		p, err := NewInitiator(raw, public[:])
		if err != nil {
			t.Fatal(err)
		}
		pub := k.Public()
		uapi += fmt.Sprintf("public_key=%x\nallowed_ip=%s/32\n", pub[:], netip.AddrFrom4([4]byte{10, 0, 0, byte(len(peers))}))
		return p
	}
	for range 20 {
		peers = append(peers, newPeer())
	}
	if err := d.IpcSet(uapi); err != nil {
		t.Fatal(err)
	}
	if err := d.Up(); err != nil {
		t.Fatal(err)
	}
	c := dial(t, d)
	a, err := Flood(t.Context(), c, peers, 1)
	if err != nil || a.Responses != 20 || a.Lost != 0 {
		t.Errorf("%+v %v, want 20 answers", a, err)
	}
	if a, err := Flood(t.Context(), c, []*Initiator{newPeer()}, 1); err != nil || a.Responses != 0 || a.Lost != 1 {
		t.Errorf("%+v %v, want silence for a stranger", a, err)
	}
}

func dial(t *testing.T, d *device.Device) net.Conn {
	t.Helper()
	text, err := d.IpcGet()
	if err != nil {
		t.Fatal(err)
	}
	var port int
	for line := range strings.Lines(text) {
		_, _ = fmt.Sscanf(line, "listen_port=%d", &port)
	}
	c, err := net.Dial("udp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func FuzzParse(f *testing.F) {
	f.Add(make([]byte, responseSize))
	f.Fuzz(func(_ *testing.T, b []byte) { Parse(b) })
}
