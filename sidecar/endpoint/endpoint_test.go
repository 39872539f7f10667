package endpoint

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

var peer = key.Public{1}

const text = "vpn.example.com:51820"

// world is the name server and the device around a Resolver.
type world struct {
	*Resolver
	mu      sync.Mutex
	answer  []netip.Addr
	fail    error
	refuse  error // of Move
	asked   []time.Duration
	moved   []string
	stats   datapath.PeerStats
	started time.Time
}

func newWorld(t *testing.T, answer ...string) *world {
	w := &world{started: time.Now(), stats: datapath.PeerStats{PublicKey: peer}}
	w.says(answer...)
	w.Resolver = New(Options{
		Accept: netip.Addr.IsGlobalUnicast,
		Lookup: func(_ context.Context, host string) ([]netip.Addr, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if host != "vpn.example.com" {
				t.Errorf("asked for %q", host)
			}
			w.asked = append(w.asked, time.Since(w.started))
			return slices.Clone(w.answer), w.fail
		},
		Peers: func() []datapath.PeerStats {
			w.mu.Lock()
			defer w.mu.Unlock()
			return []datapath.PeerStats{w.stats}
		},
		Move: func(k key.Public, name string, to netip.AddrPort) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			if k != peer || name != text {
				t.Errorf("moved %v %q", k, name)
			}
			if w.refuse != nil {
				return w.refuse
			}
			w.moved = append(w.moved, to.String())
			return nil
		},
	})
	w.Set(map[key.Public]string{peer: text})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return w
}

func (w *world) says(answer ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer = nil
	for _, a := range answer {
		w.answer = append(w.answer, netip.MustParseAddr(a))
	}
}

func (w *world) set(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// after waits and wants to have been asked that often, and to have moved there.
func (w *world) after(t *testing.T, d time.Duration, asked int, moved ...string) {
	t.Helper()
	time.Sleep(d)
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.asked) != asked || !slices.Equal(w.moved, moved) {
		t.Fatalf("after %s: asked at %v, moved to %v; want asked %d times, moved to %v", time.Since(w.started), w.asked, w.moved, asked, moved)
	}
}

// talks keeps the handshake young.
func (w *world) talks() { w.set(func() { w.stats.LastHandshake = time.Now() }) }

// sends makes bytes be sent from now on, at every look.
func (w *world) sends(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Second) {
		w.set(func() { w.stats.TxBytes += 148 })
	}
}

func TestLivingPeerIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "192.0.2.1", "192.0.2.2")
		w.after(t, time.Second, 1, "192.0.2.1:51820")
		if at := w.At(peer); at.String() != "192.0.2.1:51820" {
			t.Errorf("it is at %s", at)
		}
		w.says("192.0.2.9")
		for range 60 {
			w.talks()
			w.sends(time.Minute)
		}
		w.after(t, 0, 1, "192.0.2.1:51820")
	})
}

func TestPeerThatDoesNotAnswerIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "192.0.2.1")
		w.after(t, time.Second, 1, "192.0.2.1:51820")
		w.talks()
		w.says("2001:db8::9")
		w.sends(alive - 2*time.Second)
		w.after(t, 0, 1, "192.0.2.1:51820")
		w.sends(2*interval + time.Second)
		w.after(t, 0, 2, "192.0.2.1:51820", "[2001:db8::9]:51820")
		w.sends(trying - 2*interval)
		w.after(t, 0, 2, "192.0.2.1:51820", "[2001:db8::9]:51820")
		w.sends(2 * interval)
		w.after(t, 0, 3, "192.0.2.1:51820", "[2001:db8::9]:51820") // the only address it has
	})
}

// One of several addresses that does not answer is left for the next, in a circle, whatever the order of the answers.
func TestEveryAddressIsTried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "192.0.2.1", "127.0.0.1", "2001:db8::2", "192.0.2.3")
		w.after(t, time.Second, 1, "192.0.2.1:51820")
		w.sends(3*(trying+interval) + time.Second)
		w.after(t, 0, 4, "192.0.2.1:51820", "[2001:db8::2]:51820", "192.0.2.3:51820", "192.0.2.1:51820")
	})
}

// A peer that nobody sends to may be well, and may have roamed: it is not moved among its addresses, and hardly asked for.
func TestSilentPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "192.0.2.1", "192.0.2.2")
		w.after(t, time.Hour+time.Second, 13, "192.0.2.1:51820")
		w.says("192.0.2.3")
		w.after(t, silent, 14, "192.0.2.1:51820", "192.0.2.3:51820")
	})
}

func TestUnknownNameIsAskedForUntilItIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.after(t, time.Minute, 5) // at 0, 5 (after 2 seconds at least), 10 (4), 20 (8), 40 (16); then every 30
		w.set(func() { w.fail = errors.New("no such host") })
		w.after(t, time.Hour, 5+120)
		w.set(func() { w.fail = nil })
		w.says("127.0.0.1", "169.254.169.254", "224.0.0.1", "::1", "fe80::1")
		w.after(t, time.Minute, 5+122)
		if found, failed := w.Counts(); found != 0 || failed != 127 {
			t.Errorf("found %d, failed %d", found, failed)
		}
		w.says("::ffff:192.0.2.1")
		w.after(t, trying+interval, 5+123, "192.0.2.1:51820")
		if found, _ := w.Counts(); found != 1 {
			t.Errorf("found %d", found)
		}
	})
}

// Where the device refuses, the peer is not taken for moved.
func TestMoveFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.set(func() { w.refuse = errors.New("device") })
		w.says("192.0.2.1")
		w.after(t, time.Minute, 5)
		if at := w.At(peer); at.IsValid() {
			t.Errorf("it is at %s", at)
		}
		w.set(func() { w.refuse = nil })
		w.after(t, trying+interval, 6, "192.0.2.1:51820")
	})
}

func TestSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "192.0.2.1")
		w.after(t, time.Second, 1, "192.0.2.1:51820")
		w.Set(map[key.Public]string{peer: text})
		w.after(t, time.Minute, 1, "192.0.2.1:51820")
		w.Set(nil)
		if at := w.At(peer); at.IsValid() {
			t.Errorf("a name that is gone is at %s", at)
		}
		w.after(t, time.Hour, 1, "192.0.2.1:51820")
		w.Set(map[key.Public]string{peer: text})
		w.after(t, time.Millisecond, 2, "192.0.2.1:51820", "192.0.2.1:51820") // at once
	})
}
