package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/wire"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// Bounds of what pods are asked.
const (
	maxAsked    = 64 // pods in all
	askedAtOnce = 8
)

// podID is a pod's namespace and name.
type podID [2]string

// asker asks pods for their devices, over connections that it keeps, and remembers the last answers to tell rates.
type asker struct {
	open  func(ctx context.Context, id podID) (shower, error)
	on    bool
	clock func() time.Time
	conns map[podID]shower
	last  map[podID]*wire.Device

	mu     sync.Mutex
	denied map[string]bool // namespaces whose pods may not be asked
}

// shower is a way to a pod.
type shower interface {
	device(ctx context.Context) (*wire.Device, error)
	close()
}

func newAsker(n *namespace, on bool) *asker {
	return &asker{on: on, clock: time.Now, conns: map[podID]shower{}, last: map[podID]*wire.Device{}, denied: map[string]bool{},
		open: func(ctx context.Context, id podID) (shower, error) {
			of := *n
			of.name = id[0]
			return of.openPod(ctx, id[1])
		}}
}

func (a *asker) close() {
	for _, c := range a.conns {
		c.close()
	}
}

// figures fills in what pods say, with rates since the last time, and notes who says nothing. It says whether anybody did.
func (a *asker) figures(ctx context.Context, r *report) bool {
	if !a.on {
		return false
	}
	ids := worthAsking(r)
	if len(ids) > maxAsked {
		r.Notes = append(r.Notes, fmt.Sprintf("figures of %d pods: only %d are asked; name a tunnel, or ask each with kubectl tenantwire wg", len(ids)-maxAsked, maxAsked))
		ids = ids[:maxAsked]
	}
	devices, notes := a.ask(ctx, ids)
	r.Notes = append(r.Notes, notes...)
	fill(r, devices, a.last, a.clock())
	maps.Copy(a.last, devices)
	return len(devices) > 0
}

// worthAsking are the pods whose data path is up: active gateways first, as they know of all outside peers.
func worthAsking(r *report) (gateways []podID) {
	var members []podID
	for i := range r.Tunnels {
		t := &r.Tunnels[i]
		for _, m := range t.Members {
			id := podID{t.Namespace, m.Pod}
			switch {
			case m.Role == v1alpha1.RoleGateway && t.Gateway != nil && t.Gateway.Active == m.Pod:
				gateways = append(gateways, id)
			case m.Role == v1alpha1.RoleMember && m.Ready.yes():
				members = append(members, id)
			}
		}
	}
	return append(gateways, members...)
}

// ask asks pods, some at a time.
func (a *asker) ask(ctx context.Context, ids []podID) (map[podID]*wire.Device, []string) {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	devices, notes := map[podID]*wire.Device{}, map[string]bool{}
	slots := make(chan struct{}, askedAtOnce)
	var all sync.WaitGroup
	for _, id := range ids {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			d, err := a.askOne(ctx, id)
			a.mu.Lock()
			defer a.mu.Unlock()
			switch {
			case errors.Is(err, errNoRight):
				a.denied[id[0]] = true
				notes[fmt.Sprintf("HANDSHAKE, RECEIVED and SENT: %v in namespace %s", errNoRight, id[0])] = true
			case err != nil:
				notes[err.Error()] = true
			default:
				devices[id] = d
			}
		})
	}
	all.Wait()
	return devices, slices.Sorted(maps.Keys(notes))
}

func (a *asker) askOne(ctx context.Context, id podID) (*wire.Device, error) {
	a.mu.Lock()
	c, denied := a.conns[id], a.denied[id[0]]
	a.mu.Unlock()
	if denied {
		return nil, errNoRight
	}
	if c == nil {
		var err error
		if c, err = a.open(ctx, id); err != nil {
			return nil, err
		}
	}
	d, err := c.device(ctx)
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil {
		c.close()
		delete(a.conns, id)
		return nil, err
	}
	a.conns[id] = c
	return d, nil
}

// fill puts what devices say into a report: of a member, all its peers together; of an outside peer, what the active gateway says or,
// where there is none, all members together.
func fill(r *report, devices, before map[podID]*wire.Device, now time.Time) {
	for i := range r.Tunnels {
		t := &r.Tunnels[i]
		of := map[key.Public]*live{}
		for j := range t.Members {
			m := &t.Members[j]
			id := podID{t.Namespace, m.Pod}
			d := devices[id]
			if d == nil {
				continue
			}
			m.Live = &live{}
			was := map[key.Public]wire.DevicePeer{}
			var elapsed time.Duration
			if b := before[id]; b != nil && b.PublicKey == d.PublicKey {
				elapsed = d.Time.Sub(b.Time)
				for _, p := range b.Peers {
					was[p.PublicKey] = p
				}
			}
			for _, p := range d.Peers {
				l := liveOf(p, was, elapsed, d.Time, now)
				m.Live.add(l)
				if t.Gateway == nil || m.Role == v1alpha1.RoleGateway {
					if of[p.PublicKey] == nil {
						of[p.PublicKey] = &live{}
					}
					of[p.PublicKey].add(l)
				}
			}
			m.Live.Endpoint = "" // of many
		}
		for j := range t.Peers {
			if k, err := key.ParsePublic(t.Peers[j].PublicKey); err == nil {
				t.Peers[j].Live = of[k]
			}
		}
	}
}

// liveOf is what a device says of one peer, by our clock.
func liveOf(p wire.DevicePeer, was map[key.Public]wire.DevicePeer, elapsed time.Duration, its, now time.Time) live {
	l := live{RxBytes: p.RxBytes, TxBytes: p.TxBytes}
	if p.Endpoint.IsValid() {
		l.Endpoint = p.Endpoint.String()
	}
	if !p.LastHandshake.IsZero() {
		l.LastHandshake = &metav1.Time{Time: now.Add(p.LastHandshake.Sub(its)).Truncate(time.Second)}
	}
	if b, ok := was[p.PublicKey]; ok && elapsed > 0 && p.RxBytes >= b.RxBytes && p.TxBytes >= b.TxBytes {
		rx, tx := float64(p.RxBytes-b.RxBytes)/elapsed.Seconds(), float64(p.TxBytes-b.TxBytes)/elapsed.Seconds()
		l.RxRate, l.TxRate = &rx, &tx
	}
	return l
}

// add makes l what it and another say together; the endpoint is that of the later handshake.
func (l *live) add(o live) {
	if l.LastHandshake == nil || o.LastHandshake != nil && o.LastHandshake.After(l.LastHandshake.Time) {
		l.LastHandshake, l.Endpoint = o.LastHandshake, o.Endpoint
	}
	l.RxBytes += o.RxBytes
	l.TxBytes += o.TxBytes
	l.RxRate, l.TxRate = sum(l.RxRate, o.RxRate), sum(l.TxRate, o.TxRate)
}

func sum(a, b *float64) *float64 {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	s := *a + *b
	return &s
}
