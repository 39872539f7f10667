package controller

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// confirmation is how long a write may take to come back through the cache before we stop believing in it.
const confirmation = 30 * time.Second

// memory is what the tunnel controller wrote and has not seen come back yet. Addresses are given out from the cached members and
// these together: the cache alone lags, and an address would be given out twice. The queue never works on one tunnel twice at
// once, so only the map of tunnels needs a lock.
type memory struct {
	now     func() time.Time
	mu      sync.Mutex
	tunnels map[types.NamespacedName]*record
}

// record is the memory of one tunnel.
type record struct {
	listed     bool // the members were read from the API server itself, once
	written    map[string]written
	reported   map[types.UID]tenant.Reason // problems of pods that have had their Event
	statusTime time.Time
}

type written struct {
	member   v1alpha1.TunnelMember
	replaced types.UID // the member of that name that was deleted to make room
	at       time.Time
}

func newMemory(now func() time.Time) *memory {
	return &memory{now: now, tunnels: make(map[types.NamespacedName]*record)}
}

func (m *memory) of(tunnel types.NamespacedName) *record {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.tunnels[tunnel]
	if r == nil {
		r = &record{written: make(map[string]written), reported: make(map[types.UID]tenant.Reason)}
		m.tunnels[tunnel] = r
	}
	return r
}

func (m *memory) forget(tunnel types.NamespacedName) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.tunnels, tunnel)
}

// overlay is the cached members as they are once all our writes have come back. Writes that did are forgotten.
func (r *record) overlay(cached []v1alpha1.TunnelMember, now time.Time) []v1alpha1.TunnelMember {
	out := make([]v1alpha1.TunnelMember, 0, len(cached)+len(r.written))
	seen := make(map[string]bool, len(r.written))
	for i := range cached {
		c := &cached[i]
		w, ok := r.written[c.Name]
		switch {
		case !ok:
			out = append(out, *c)
			continue
		case now.Sub(w.at) > confirmation, c.UID != w.member.UID && c.UID != w.replaced, // somebody else's since
			c.UID == w.member.UID && equality.Semantic.DeepEqual(c.Spec, w.member.Spec):
			delete(r.written, c.Name)
			out = append(out, *c)
		case c.UID == w.member.UID:
			m := *c // what the member says of itself is fresher in the cache
			m.Spec = w.member.Spec
			out = append(out, m)
		default:
			out = append(out, w.member)
		}
		seen[c.Name] = true
	}
	for name, w := range r.written {
		switch {
		case seen[name]:
		case now.Sub(w.at) > confirmation:
			delete(r.written, name)
		default:
			out = append(out, w.member)
		}
	}
	return out
}

// unreported is the problems that have had no Event yet. It forgets those that are over, so that they are reported when they
// come back.
func (r *record) unreported(problems []tenant.Problem) []tenant.Problem {
	current := make(map[types.UID]tenant.Reason, len(problems))
	var out []tenant.Problem
	for _, p := range problems {
		current[p.PodUID] = p.Reason
		if r.reported[p.PodUID] != p.Reason {
			out = append(out, p)
		}
	}
	r.reported = current
	return out
}

// remember takes over what the leader before us wrote, until the cache has caught up with it.
func (r *record) remember(members []v1alpha1.TunnelMember, tunnel string, now time.Time) {
	r.listed = true
	for i := range members {
		if m := members[i]; m.Spec.Tunnel == tunnel {
			r.written[m.Name] = written{member: m, at: now}
		}
	}
}
