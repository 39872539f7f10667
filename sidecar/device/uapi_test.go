package device

import (
	"bytes"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/datapath/delta"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

func randomPeer(r *rand.Rand) datapath.Peer {
	p := datapath.Peer{
		PublicKey: key.NewPrivate().Public(),
		Keepalive: time.Duration(r.IntN(65536)) * time.Second,
	}
	if r.IntN(2) == 0 {
		p.PresharedKey = key.NewPreshared()
	}
	if r.IntN(2) == 0 {
		p.Endpoint = netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(1 + r.IntN(254))}), uint16(1+r.IntN(65535)))
	}
	for range r.IntN(5) {
		a := netip.AddrFrom4([4]byte{10, byte(r.IntN(256)), byte(r.IntN(256)), byte(r.IntN(256))})
		p.AllowedIPs = append(p.AllowedIPs, netip.PrefixFrom(a, 8+r.IntN(25)))
	}
	return p
}

// TestConfigRoundTrip applies random deltas to a live engine; what it reports must be what the registry says, and the same
// delta again must be nothing to do.
func TestConfigRoundTrip(t *testing.T) {
	a := open(t, 1)
	r := rand.New(rand.NewPCG(1, 2))
	var known []datapath.Peer
	for round := range 60 {
		var upsert []datapath.Peer
		var remove []key.Public
		for _, i := range r.Perm(len(known))[:min(len(known), r.IntN(3))] {
			p := randomPeer(r)
			p.PublicKey = known[i].PublicKey
			upsert = append(upsert, p)
		}
		for range r.IntN(3) {
			upsert = append(upsert, randomPeer(r))
		}
		if len(known) > 0 && r.IntN(3) == 0 {
			k := known[r.IntN(len(known))].PublicKey
			upsert = slices.DeleteFunc(upsert, func(p datapath.Peer) bool { return p.PublicKey == k })
			remove = append(remove, k)
		}
		if err := a.UpdatePeers(upsert, remove); err != nil {
			continue // two random peers met in an allowed IP; the comparison below shows that nothing happened
		}
		known = nil
		for _, p := range a.peers {
			known = append(known, p)
		}
		slices.SortFunc(known, func(x, y datapath.Peer) int { return bytes.Compare(x.PublicKey[:], y.PublicKey[:]) })
		compareState(t, a, known)
		if d, err := delta.Plan(a.self, a.peers, upsert, nil); err != nil || len(d.Changes) != 0 {
			t.Fatalf("round %d: the same delta again changes %+v, %v", round, d.Changes, err)
		}
	}
}

func compareState(t *testing.T, a *node, want []datapath.Peer) {
	t.Helper()
	got, err := a.Peers()
	if err != nil || len(got) != len(want) {
		t.Fatalf("%d peers, %v; want %d", len(got), err, len(want))
	}
	for i, p := range want {
		slices.SortFunc(got[i].AllowedIPs, netip.Prefix.Compare)
		if got[i].PublicKey != p.PublicKey || !slices.Equal(got[i].AllowedIPs, p.AllowedIPs) || got[i].Endpoint != p.Endpoint {
			t.Fatalf("peer %d: %+v, want %s %v %v", i, got[i], p.PublicKey, p.AllowedIPs, p.Endpoint)
		}
	}
}

// TestConfigText shows the text for each kind of change: nothing is said that did not change.
func TestConfigText(t *testing.T) {
	k := key.Public{1}
	hex := k.Hex()
	base := datapath.Peer{PublicKey: k, AllowedIPs: prefixes(t, "10.0.0.0/24", "10.0.1.0/24"), Keepalive: time.Second}
	with := func(f func(*datapath.Peer)) datapath.Peer { p := base; f(&p); return p }
	have := delta.Registry{k: base}
	for name, tc := range map[string]struct {
		p    datapath.Peer
		want string
	}{
		"unchanged":   {base, ""},
		"endpoint":    {with(func(p *datapath.Peer) { p.Endpoint = netip.MustParseAddrPort("192.0.2.1:1") }), "public_key=" + hex + "\n"},
		"keepalive":   {with(func(p *datapath.Peer) { p.Keepalive = 0 }), "public_key=" + hex + "\npersistent_keepalive_interval=0\n"},
		"ip added":    {with(func(p *datapath.Peer) { p.AllowedIPs = prefixes(t, "10.0.0.0/24", "10.0.1.0/24", "fd00::/64") }), "public_key=" + hex + "\nallowed_ip=fd00::/64\n"},
		"ip removed":  {with(func(p *datapath.Peer) { p.AllowedIPs = prefixes(t, "10.0.0.0/24") }), "public_key=" + hex + "\nreplace_allowed_ips=true\nallowed_ip=10.0.0.0/24\n"},
		"ips removed": {with(func(p *datapath.Peer) { p.AllowedIPs = nil }), "public_key=" + hex + "\nreplace_allowed_ips=true\n"},
	} {
		d, err := delta.Plan(key.Public{9}, have, []datapath.Peer{tc.p}, nil)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := writeConfig(&b, config{Peers: d.Changes}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tc.want, b.String()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// TestNothingLogsASecret runs a device with everything logged and prints every value that holds a key.
func TestNothingLogsASecret(t *testing.T) {
	var out syncBuffer
	priv, psk := key.NewPrivate(), key.NewPreshared()
	d, err := Open(Options{
		PrivateKey: priv, Interface: datapath.Interface{MTU: 1420, Addresses: prefixes(t, "10.9.0.1/24")},
		Logger: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		t.Fatal(err)
	}
	p := datapath.Peer{PublicKey: key.NewPrivate().Public(), PresharedKey: psk, Keepalive: time.Second, Endpoint: netip.MustParseAddrPort("127.0.0.1:9")}
	if err := d.UpdatePeers([]datapath.Peer{p}, nil); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		fmt.Fprintf(&out, verb+"\n", p)
		fmt.Fprintf(&out, verb+"\n", d)
	}
	_ = d.Close()
	for _, secret := range []string{priv.Reveal(), priv.Hex(), psk.Reveal(), psk.Hex()} {
		if strings.Contains(out.String(), secret[:20]) {
			t.Error("a secret key was written")
		}
	}
}

func FuzzParseStatus(f *testing.F) {
	f.Add("private_key=00\nlisten_port=51820\npublic_key=" + key.Public{1}.Hex() + "\nendpoint=[::1]:1\nallowed_ip=10.0.0.0/8\nrx_bytes=1\ntx_bytes=2\nlast_handshake_time_sec=1\nlast_handshake_time_nsec=2\n")
	f.Add("endpoint=1.2.3.4:5\n")
	f.Add("public_key=\nendpoint=\n\n")
	f.Fuzz(func(t *testing.T, s string) {
		st, err := parseStatus(strings.NewReader(s))
		if err != nil && (st.ListenPort != 0 || st.Peers != nil) {
			t.Fatalf("an error and a result: %+v, %v", st, err)
		}
	})
}
