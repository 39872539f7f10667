package coordinator

import (
	"context"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/tenantwire/tenantwire/tenant"
)

// hub holds a topic for every tunnel that is watched on this replica.
type hub struct {
	Options
	mu     sync.Mutex
	topics map[types.NamespacedName]*topic
	dirty  map[types.NamespacedName]bool
	wake   chan struct{} // capacity 1
}

// topic is one tunnel's current plan. Its fields are guarded by the hub's lock.
type topic struct {
	network  *tenant.Network // nil: the tunnel does not exist
	asOf     time.Time       // when the plan's gathering began; zero: there is no plan yet
	changed  chan struct{}   // closed when network was replaced
	watchers int
	members  int
	expiry   *time.Timer // marks the tunnel when a peer expires; nil: none will
}

func newHub(o Options) *hub {
	return &hub{Options: o, topics: map[types.NamespacedName]*topic{}, dirty: map[types.NamespacedName]bool{}, wake: make(chan struct{}, 1)}
}

// changed marks the watched tunnels of a namespace.
func (h *hub) changed(namespace string) {
	h.mu.Lock()
	marked := false
	for n := range h.topics {
		if n.Namespace == namespace {
			h.dirty[n] = true
			marked = true
		}
	}
	h.mu.Unlock()
	if marked {
		h.signal()
	}
}

func (h *hub) signal() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// subscribe makes sure the tunnel has a topic; the release function must be called once. A plan that current returns as of a time
// before since may not know of what the caller has just seen in the cache.
func (h *hub) subscribe(n types.NamespacedName) (since time.Time, release func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.topics[n]
	if t == nil {
		t = &topic{changed: make(chan struct{})}
		h.topics[n] = t
	}
	t.watchers++
	h.dirty[n] = true // somebody joined: what they see must not be older than their registration
	h.signal()
	return time.Now(), func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if t.watchers--; t.watchers == 0 {
			delete(h.topics, n)
			delete(h.dirty, n)
			t.await(0, nil)
		}
	}
}

// await calls f after a while instead of what was awaited before; zero: nothing is.
func (t *topic) await(d time.Duration, f func()) {
	if t.expiry != nil {
		t.expiry.Stop()
		t.expiry = nil
	}
	if d > 0 {
		t.expiry = time.AfterFunc(d, f)
	}
}

// current returns the plan, when it was gathered, and a channel that closes when there is another.
func (h *hub) current(n types.NamespacedName) (network *tenant.Network, asOf time.Time, changed <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.topics[n]
	return t.network, t.asOf, t.changed
}

// run plans dirty tunnels until ctx ends. Changes wait Debounce for company, and a tunnel is planned at most once per interval,
// which grows with its members: a thousand joins are some tens of plans, not a thousand.
func (h *hub) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.wake:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(h.Debounce):
		}
		if wait := h.planDirty(ctx); wait > 0 {
			time.AfterFunc(wait, h.signal)
		}
	}
}

// planDirty plans what is due and returns how long the soonest of the rest has to wait.
func (h *hub) planDirty(ctx context.Context) (wait time.Duration) {
	for _, n := range h.due(&wait) {
		asOf := time.Now()
		st, ok, err := h.Store.State(ctx, n)
		if err != nil {
			h.Log.Error(err, "gather a tunnel's state", "tunnel", n.String())
			h.mu.Lock()
			if h.topics[n] != nil {
				h.dirty[n] = true
			}
			h.mu.Unlock()
			wait = time.Second
			continue
		}
		var network *tenant.Network
		if ok {
			network = tenant.NewNetwork(st)
		}
		h.Metrics.plans.Inc()
		h.publish(n, network, asOf, st)
	}
	return wait
}

func (h *hub) due(wait *time.Duration) (due []types.NamespacedName) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for n := range h.dirty {
		t := h.topics[n]
		if t == nil {
			delete(h.dirty, n)
			continue
		}
		if left := t.interval() - time.Since(t.asOf); left > 0 {
			if *wait == 0 || left < *wait {
				*wait = left
			}
			continue
		}
		delete(h.dirty, n)
		due = append(due, n)
	}
	return due
}

// interval is the least time between two plans of a tunnel: each plan costs every stream a comparison.
func (t *topic) interval() time.Duration {
	return max(50*time.Millisecond, time.Duration(t.members)*2*time.Millisecond)
}

func (h *hub) publish(n types.NamespacedName, network *tenant.Network, asOf time.Time, st tenant.State) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.topics[n]
	if t == nil {
		return
	}
	t.network, t.asOf, t.members = network, asOf, len(st.Members)
	t.await(tenant.NextExpiry(st.Peers, st.Now), func() { h.changed(n.Namespace) })
	close(t.changed)
	t.changed = make(chan struct{})
}
