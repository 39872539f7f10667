package agent

import (
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

func TestPresharedKeysAreFound(t *testing.T) {
	dir := t.TempDir()
	good := key.NewPreshared()
	for name, text := range map[string]string{"good": good.Reveal() + "\n", "short": "c2hvcnQ=", "none": "", "zero": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "line": good.Reveal() + "\nx"} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	must(t, os.Mkdir(filepath.Join(dir, "folder"), 0o700))
	must(t, os.WriteFile(filepath.Join(filepath.Dir(dir), "outside"), []byte(good.Reveal()), 0o600))
	for name, want := range map[string]wire.KeptOut{
		"good": "", "short": wire.BadPresharedKey, "none": wire.BadPresharedKey, "zero": wire.BadPresharedKey, "line": wire.BadPresharedKey, "folder": wire.BadPresharedKey,
		"absent": wire.NoPresharedKey, "../outside": wire.NoPresharedKey, "..": wire.NoPresharedKey, "": wire.NoPresharedKey,
	} {
		k, why := presharedKeys(dir).find(name)
		if why != want || k.Equal(good) != (want == "") {
			t.Errorf("%q: %q, want %q", name, why, want)
		}
	}
	if _, why := presharedKeys("").find("good"); why != wire.NoPresharedKey {
		t.Errorf("without a folder: %q", why)
	}
}

// A peer whose preshared key is missing is kept out and told of; it comes in once the key is there, and another one takes its place
// without anything being told. Others are not disturbed.
func TestPresharedKeyComesAndChanges(t *testing.T) {
	l := newLab(t)
	dir := t.TempDir()
	active := make(chan struct{})
	close(active)
	l.opts.Active, l.opts.PresharedKeys = active, dir
	var plane *plane
	var public key.Public
	l.start(t, func(m *member) { plane, public = m.plane, m.public })
	s := l.c.next(t, "")
	c := l.config()
	c.Peers[0].PresharedKey, c.Peers[0].Outside, c.Granted = "far", true, c.Inbound
	other := wire.Peer{PublicKey: key.NewPrivate().Public(), AllowedIPs: nil, Outside: true}
	c.Peers = append(c.Peers, other)
	c.Sort()
	s.send(t, snapshot(c))
	far := l.farKey.Public()
	state := func() wire.PeerState {
		for _, p := range plane.outsidePeers(time.Now()) {
			if p.PublicKey == far {
				return p
			}
		}
		return wire.PeerState{}
	}
	eventually(t, "it is kept out", func() error {
		if st := state(); st.KeptOut != wire.NoPresharedKey {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
	if code, _, err := l.health("/readyz"); err != nil || code != http.StatusOK {
		t.Errorf("a missing key of one peer makes it unready: %d, %v", code, err)
	}
	on := func() (there, others bool) {
		for _, p := range plane.livePeers() {
			there, others = there || p.PublicKey == far, others || p.PublicKey == other.PublicKey
		}
		return there, others
	}
	if there, others := on(); there || !others {
		t.Errorf("on the device: kept out %v, other %v", there, others)
	}
	for round := range 2 {
		psk := key.NewPreshared()
		must(t, l.far.UpdatePeers(nil, []key.Public{public})) // with it goes the session
		must(t, l.far.UpdatePeers([]datapath.Peer{{PublicKey: public, PresharedKey: psk, AllowedIPs: []netip.Prefix{memberAddress},
			Endpoint: netip.AddrPortFrom(l.opts.PodIP, l.opts.ListenPort)}}, nil))
		if err := l.echoes(); err == nil {
			t.Errorf("round %d: it carries although only one side has the key", round)
		}
		must(t, os.WriteFile(filepath.Join(dir, "far"), []byte(psk.Reveal()), 0o600))
		must(t, plane.rekey())
		l.carries(t)
	}
	must(t, os.WriteFile(filepath.Join(dir, "far"), []byte("garbage"), 0o600))
	must(t, plane.rekey())
	if st := state(); st.KeptOut != wire.BadPresharedKey {
		t.Errorf("with garbage for a key: %+v", st)
	}
	l.stop(t)
}
