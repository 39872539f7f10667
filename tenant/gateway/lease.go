package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	v1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/utils/ptr"

	"github.com/tenantwire/tenantwire/sidecar/agent"
	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

// annotationEndpoints on the Lease is where outside peers were last, for who takes over: KEY=ADDRESS:PORT, separated by spaces.
const annotationEndpoints = "tenantwire.dev/endpoints"

// maxEndpoints bounds that annotation to some 5 KB: the Lease is written several times a second.
const maxEndpoints = 64

// lease is the Lease as the elector's lock. Another may take it when it has not been renewed for its duration, counted from when that
// one saw it renewed, which is after we asked for that: so much the fence knows. It also hands over where peers are.
type lease struct {
	client   v1.LeaseInterface
	name     string
	identity string
	holds    time.Duration
	every    time.Duration // between two renewals: the elector asks for more, as it does to look at another's
	fence    *datapath.Fence
	soon     chan bool   // capacity 1: whether our turn is about to come
	expected bool        // what soon said last
	foretold atomic.Bool // who asks for our readiness was told of it

	mu      sync.Mutex // guards what follows
	current *coordinationv1.Lease
	changed time.Duration                 // by the fence's clock: when we saw it renewed last
	asked   time.Duration                 // by the fence's clock: when we asked for our last renewal
	leaving bool                          // we are about to give it back
	heard   map[key.Public]netip.AddrPort // by us
}

var (
	_ resourcelock.Interface = (*lease)(nil)
	_ agent.Handover         = (*lease)(nil)
)

func (l *lease) Identity() string { return l.identity }
func (l *lease) Describe() string { return l.name }

// RecordEvent does nothing: a gateway may not write Events.
func (l *lease) RecordEvent(string) {}

// Get reads the record. An elector tells by the raw one whether it was renewed, and as JSON that has whole seconds: of a renewal within
// one second it would learn only after that, and take the Lease so much too early. So the microseconds are added.
func (l *lease) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	o, err := l.client.Get(ctx, l.name, metav1.GetOptions{ResourceVersion: l.freshness()})
	if err != nil {
		return nil, nil, err
	}
	l.set(o)
	if holder(o) != l.identity {
		l.fence.Close() // somebody took it from us, or made it anew
		l.foresee(ctx, o)
	}
	r := l.seen(o)
	raw, err := json.Marshal(r)
	return r, strconv.AppendInt(raw, r.RenewTime.UnixMicro(), 10), err
}

// freshness is how new a read has to be. While it is another's, what the API server has in memory will do: the Lease cannot be taken by
// who knows an old one.
func (l *lease) freshness() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current == nil || holder(l.current) == "" || holder(l.current) == l.identity {
		return ""
	}
	return "0"
}

func holder(o *coordinationv1.Lease) string { return ptr.Deref(o.Spec.HolderIdentity, "") }

func (l *lease) set(o *coordinationv1.Lease) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current == nil || holder(l.current) != holder(o) || !l.current.Spec.RenewTime.Equal(o.Spec.RenewTime) {
		l.changed = l.fence.Now()
	}
	l.current = o
}

// renewed says whether there is nothing to write yet.
func (l *lease) renewed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fence.Open() && l.fence.Now()-l.asked < l.every
}

// Create is not ours to do.
func (l *lease) Create(context.Context, resourcelock.LeaderElectionRecord) error {
	return fmt.Errorf("lease %s does not exist: the operator makes it with the gateway", l.name)
}

// Update takes, renews or gives back the Lease.
func (l *lease) Update(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	ours := r.HolderIdentity == l.identity
	if ours && l.renewed() {
		return nil
	}
	next, err := l.next(r)
	if err != nil {
		return err
	}
	if !ours {
		l.fence.Close()
	}
	asked := l.fence.Now()
	o, err := l.client.Update(ctx, next, metav1.UpdateOptions{})
	if err != nil {
		return err
	}
	if ours {
		l.fence.Extend(asked, l.holds)
	}
	l.set(o)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked = asked
	return nil
}

func (l *lease) next(r resourcelock.LeaderElectionRecord) (*coordinationv1.Lease, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current == nil {
		return nil, errors.New("the lease was not read yet")
	}
	if r.HolderIdentity != l.identity && holder(l.current) != l.identity {
		// The elector gives back what it had when it looked last: by now it may be another's.
		return nil, errors.New("the lease is not ours to give back")
	}
	next := l.current.DeepCopy()
	next.Spec = resourcelock.LeaderElectionRecordToLeaseSpec(&r)
	l.announce(next)
	if l.heard != nil {
		before := parseEndpoints(next.Annotations[annotationEndpoints])
		metav1.SetMetaDataAnnotation(&next.ObjectMeta, annotationEndpoints, formatEndpoints(l.heard, before))
	}
	return next, nil
}

// Heard is where outside peers are; the next renewal writes it. Those that we have not heard of stay where who was active before had
// them: we may be gone before they have answered us.
func (l *lease) Heard(at map[key.Public]netip.AddrPort) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heard = at
}

// Endpoints are where outside peers were when the Lease was read last.
func (l *lease) Endpoints() map[key.Public]netip.AddrPort {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current == nil {
		return nil
	}
	return parseEndpoints(l.current.Annotations[annotationEndpoints])
}

// formatEndpoints takes as many as there may be: those heard of first, and of the others who is not among them.
func formatEndpoints(heard, before map[key.Public]netip.AddrPort) string {
	words := make([]string, 0, len(heard)+len(before))
	add := func(at map[key.Public]netip.AddrPort, but map[key.Public]netip.AddrPort) {
		from := len(words)
		for k, e := range at {
			if _, there := but[k]; !there {
				words = append(words, k.String()+"="+e.String())
			}
		}
		slices.Sort(words[from:])
	}
	add(heard, nil)
	add(before, heard)
	return strings.Join(words[:min(len(words), maxEndpoints)], " ")
}

func oneHost(e netip.AddrPort) bool {
	a := e.Addr().Unmap() // as which the system sends it
	return e.Port() != 0 && a.Zone() == "" && !a.IsUnspecified() && !a.IsMulticast() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// parseEndpoints leaves out what it cannot read: whoever may write the Lease may write anything.
func parseEndpoints(s string) map[key.Public]netip.AddrPort {
	out := map[key.Public]netip.AddrPort{}
	for word := range strings.FieldsSeq(s) {
		i := strings.LastIndexByte(word, '=')
		if i < 0 || len(out) == maxEndpoints {
			continue
		}
		k, err := key.ParsePublic(word[:i])
		e, err2 := netip.ParseAddrPort(word[i+1:])
		if err == nil && err2 == nil && oneHost(e) {
			out[k] = e
		}
	}
	return out
}
