package agent

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// A process that stands by follows the coordinator and opens nothing; when its turn comes it greets its peers, who need do nothing.
func TestStandby(t *testing.T) {
	l := newLab(t)
	private := key.NewPrivate()
	active := make(chan struct{})
	l.opts.Active, l.opts.KeyFile = active, filepath.Join(t.TempDir(), "private")
	must(t, os.WriteFile(l.opts.KeyFile, []byte(private.Reveal()+"\n"), 0o600))
	l.start(t)
	s := l.c.next(t, "")
	first := l.config()
	first.Peers[0].KeepaliveSeconds = 0
	s.send(t, snapshot(first))
	second := l.config()
	second.Peers[0].KeepaliveSeconds, second.Interface.MTU = 0, 1380
	s.send(t, delta(first, second))
	if r := l.c.reported(t, false); !strings.Contains(r.Reason, "stands by") {
		t.Errorf("reported %+v", r)
	}
	if code, text, err := l.health("/readyz"); err != nil || code != http.StatusServiceUnavailable || !strings.Contains(text, "stands by") {
		t.Errorf("readyz: %d %s %v", code, text, err)
	}
	if regs := l.c.registered(); regs[0].PublicKey != private.Public() {
		t.Errorf("registered %s, the key's is %s", regs[0].PublicKey, private.Public())
	}
	far := func() datapath.PeerStats {
		t.Helper()
		peers, err := l.far.Peers()
		must(t, err)
		return peers[0]
	}
	time.Sleep(100 * time.Millisecond)
	if p := far(); p.RxBytes != 0 {
		t.Errorf("while standing by it sent %d bytes", p.RxBytes)
	}
	close(active)
	eventually(t, "the far end hears of it", func() error {
		if p := far(); p.LastHandshake.IsZero() {
			return errors.New("no handshake")
		}
		return nil
	})
	l.c.reported(t, true)
	l.carries(t)
	l.stop(t)
}

// Whose turn comes and cannot take it ends, so that another can.
func TestStandbyCannotTakeOver(t *testing.T) {
	l := newLab(t)
	active := make(chan struct{})
	l.opts.Active, l.opts.Prepared, l.opts.ListenPort = active, func() { close(active) }, l.far.ListenPort()
	l.start(t)
	s := l.c.next(t, "")
	s.send(t, snapshot(l.config()))
	select {
	case err := <-l.done:
		if err == nil || !strings.Contains(err.Error(), "take over") {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("it goes on")
	}
	l.done <- nil
}

// Whom the coordinator says to be no member any more ends instead of carrying on with no peers while others wait for their turn.
func TestGoneEndsWhoTakesTurns(t *testing.T) {
	l := newLab(t)
	active := make(chan struct{})
	l.opts.Active, l.opts.Prepared = active, func() { close(active) }
	l.start(t)
	s := l.c.next(t, "")
	s.send(t, snapshot(l.config()))
	l.c.reported(t, true)
	s.send(t, wire.Event{Type: wire.Gone, Reason: "deleted"})
	select {
	case err := <-l.done:
		if !errors.Is(err, errGone) {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("it goes on")
	}
	l.done <- nil
}

func TestKeyFile(t *testing.T) {
	l := newLab(t)
	dir := t.TempDir()
	for name, c := range map[string]struct {
		text string
		mode os.FileMode
		want string
	}{
		"missing": {"", 0, "no such file"},
		"garbled": {"x", 0o600, "44 characters"},
		"open":    {key.NewPrivate().Reveal(), 0o644, "mode 0644"},
	} {
		l.opts.KeyFile = filepath.Join(dir, name)
		if c.mode != 0 {
			must(t, os.WriteFile(l.opts.KeyFile, []byte(c.text), c.mode))
		}
		if _, err := newMember(l.opts); err == nil || !strings.Contains(err.Error(), "--key-file") || !strings.Contains(err.Error(), c.want) || c.mode == 0o644 && strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
