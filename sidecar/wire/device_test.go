package wire

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tenantwire/tenantwire/sidecar/key"
)

func testDevice() Device {
	return Device{Interface: "wg0", Datapath: "Netstack", PublicKey: key.NewPrivate().Public(), ListenPort: 51820, Time: time.Unix(1800000000, 0).UTC(), Up: true,
		Peers: []DevicePeer{{PublicKey: key.NewPrivate().Public(), Preshared: true, Endpoint: netip.MustParseAddrPort("[2001:db8::7]:51820"),
			AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.7.0.1/32")}, LastHandshake: time.Unix(1799999990, 5).UTC(), RxBytes: 1, TxBytes: 1 << 60, KeepaliveSeconds: 25, PathMTU: 1408, MTUState: "Verified"},
			{PublicKey: key.NewPrivate().Public()}}}
}

func TestDeviceSurvivesJSON(t *testing.T) {
	want := testDevice()
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got Device
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if err := got.Validate(); err != nil {
		t.Error(err)
	}
}

func TestDeviceValidate(t *testing.T) {
	for field, change := range map[string]func(*Device){
		"publicKey":              func(d *Device) { d.PublicKey = key.Public{} },
		"interface":              func(d *Device) { d.Interface = "wg0\x1b[2J" },
		"datapath":               func(d *Device) { d.Datapath = "Net stack" },
		"peers[1].publicKey":     func(d *Device) { d.Peers[1].PublicKey = key.Public{} },
		"peers[0].endpoint":      func(d *Device) { d.Peers[0].Endpoint = netip.MustParseAddrPort("[fe80::1%eth0]:1") },
		"peers[0].pathMTU":       func(d *Device) { d.Peers[0].PathMTU = 65456 },
		"peers[1].pathMTU":       func(d *Device) { d.Peers[1].PathMTU = -1 },
		"peers[0].mtuState":      func(d *Device) { d.Peers[0].MTUState = "\x1b[2J" },
		"peers[0].allowedIPs[0]": func(d *Device) { d.Peers[0].AllowedIPs[0] = netip.Prefix{} },
	} {
		d := testDevice()
		change(&d)
		if err := d.Validate(); err == nil || !strings.HasPrefix(err.Error(), field+":") {
			t.Errorf("%s: %v", field, err)
		}
	}
}
