package cli

import (
	"bytes"
	"cmp"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// shown is a device with a peer of every kind.
func shown() *wire.Device {
	public := func(n byte) key.Public { return key.Public{31: n} }
	at := func(ago time.Duration) time.Time { return testNow.Add(-ago) }
	return &wire.Device{Interface: "wg0", Datapath: "Netstack", PublicKey: public(1), ListenPort: 51820, Time: testNow, Up: true, Peers: []wire.DevicePeer{
		{PublicKey: public(2), Endpoint: netip.MustParseAddrPort("[2001:db8::7]:51820"), AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.77.0.2/32"), netip.MustParsePrefix("fd12:3456:789a:1::2/128")},
			LastHandshake: at(-5 * time.Second), RxBytes: 1023, TxBytes: 1024, KeepaliveSeconds: 25, PathMTU: 1408, MTUState: "Verified"},
		{PublicKey: public(3), LastHandshake: at(0), AllowedIPs: []netip.Prefix{netip.MustParsePrefix("192.168.10.0/24")}, TxBytes: 5 << 30, KeepaliveSeconds: 65535},
		{PublicKey: public(4), Preshared: true, Endpoint: netip.MustParseAddrPort("203.0.113.7:1"), LastHandshake: at(time.Second), RxBytes: 7 << 20, TxBytes: 3 << 41, KeepaliveSeconds: 1},
		{PublicKey: public(5), LastHandshake: at(400*24*time.Hour + 61*time.Minute + 2*time.Second)},
		{PublicKey: public(6), Preshared: true},
	}}
}

func TestShow(t *testing.T) {
	var parts []txtar.File
	for _, form := range []string{wgShow, wgDump, listJSON, listYAML} {
		var b bytes.Buffer
		must(t, printDevice(&b, form, shown()))
		parts = append(parts, txtar.File{Name: cmp.Or(form, "show"), Data: b.Bytes()})
	}
	golden(t, "testdata/wg.txtar", parts)
}

// What is printed is what the machine's own wg prints, of the same device, which it reads here from a socket as WireGuard in user space has one.
func TestShowIsAsWgShows(t *testing.T) {
	if _, err := exec.LookPath("wg"); err != nil || os.Getuid() != 0 {
		t.Skip("SKIPPED: needs wireguard-tools, and root for a socket in /var/run/wireguard; the golden file is compared without them")
	}
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 30 {
		private := key.NewPrivate()
		d, keys := randomDevice(r, private)
		name := fmt.Sprintf("twshow%d", os.Getpid()%100000)
		stop := serveUAPI(t, name, uapi(d, private, keys))
		for form, args := range map[string][]string{wgShow: {"show", name}, wgDump: {"show", name, "dump"}} {
			want, err := exec.CommandContext(t.Context(), "wg", args...).CombinedOutput()
			if err != nil {
				t.Fatalf("wg: %v: %s", err, want)
			}
			text := strings.ReplaceAll(string(want), private.Reveal(), hidden)
			for _, k := range keys {
				text = strings.ReplaceAll(text, k.Reveal(), hidden)
			}
			// wg tells ages by its own clock.
			var first, got bytes.Buffer
			for _, d.Time = range []time.Time{d.Time, time.Now()} {
				first, got = got, bytes.Buffer{}
				must(t, printDevice(&got, form, d))
			}
			if !slices.Contains([]string{first.String(), got.String()}, text) {
				t.Errorf("device %d, %q: wg prints\n%s\nhere\n%s", i, form, text, got.String())
			}
		}
		stop()
	}
}

func randomDevice(r *rand.Rand, private key.Private) (*wire.Device, map[key.Public]key.Preshared) {
	now := time.Now()
	d := &wire.Device{Interface: fmt.Sprintf("twshow%d", os.Getpid()%100000), PublicKey: private.Public(), ListenPort: uint16(r.UintN(2) * r.UintN(65536)), Time: now}
	keys := map[key.Public]key.Preshared{}
	ages := r.Perm(5)
	slices.Sort(ages)
	for i := range r.IntN(6) {
		p := wire.DevicePeer{PublicKey: key.NewPrivate().Public(), RxBytes: r.Uint64() >> r.UintN(64), TxBytes: r.Uint64() >> r.UintN(64)}
		if r.IntN(2) == 0 {
			keys[p.PublicKey], p.Preshared = key.NewPreshared(), true
		}
		if r.IntN(3) > 0 {
			p.Endpoint = netip.AddrPortFrom([]netip.Addr{netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("2001:db8::7:0:1")}[r.IntN(2)], uint16(1+r.UintN(65535)))
		}
		for range r.IntN(4) {
			p.AllowedIPs = append(p.AllowedIPs, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(r.UintN(256)), byte(r.UintN(256)), byte(r.UintN(256))}), 32))
		}
		if i < 4 { // the others, one of them, have had none
			p.LastHandshake = now.Truncate(time.Second).Add(-time.Duration(ages[i]) * time.Duration(r.Int64N(int64(100*24*time.Hour))+int64(time.Second)))
		}
		p.KeepaliveSeconds = uint16(r.UintN(2) * r.UintN(65536))
		d.Peers = append(d.Peers, p)
	}
	slices.SortFunc(d.Peers, func(a, b wire.DevicePeer) int { return b.LastHandshake.Compare(a.LastHandshake) })
	return d, keys
}

// uapi is a device as WireGuard in user space tells it.
func uapi(d *wire.Device, private key.Private, keys map[key.Public]key.Preshared) string {
	var b strings.Builder
	fmt.Fprintf(&b, "private_key=%s\nlisten_port=%d\n", private.Hex(), d.ListenPort)
	for _, p := range d.Peers {
		fmt.Fprintf(&b, "public_key=%s\npreshared_key=%s\nprotocol_version=1\n", p.PublicKey.Hex(), cmp.Or(map[bool]string{true: keys[p.PublicKey].Hex()}[p.Preshared], strings.Repeat("0", 64)))
		if p.Endpoint.IsValid() {
			fmt.Fprintf(&b, "endpoint=%s\n", p.Endpoint)
		}
		sec := int64(0)
		if !p.LastHandshake.IsZero() {
			sec = p.LastHandshake.Unix()
		}
		fmt.Fprintf(&b, "last_handshake_time_sec=%d\nlast_handshake_time_nsec=0\ntx_bytes=%d\nrx_bytes=%d\npersistent_keepalive_interval=%d\n", sec, p.TxBytes, p.RxBytes, p.KeepaliveSeconds)
		for _, a := range p.AllowedIPs {
			fmt.Fprintf(&b, "allowed_ip=%s\n", a)
		}
	}
	return b.String() + "errno=0\n\n"
}

// serveUAPI answers wg with text until stop is called.
func serveUAPI(t *testing.T, name, text string) (stop func()) {
	t.Helper()
	must(t, os.MkdirAll("/var/run/wireguard", 0o755)) //nolint:gosec // as wg has it
	path := "/var/run/wireguard/" + name + ".sock"
	_ = os.Remove(path)
	l, err := net.Listen("unix", path)
	must(t, err)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 100))
			_, _ = c.Write([]byte(text))
			_ = c.Close()
		}
	}()
	stop = func() { _ = l.Close() }
	t.Cleanup(stop)
	return stop
}
