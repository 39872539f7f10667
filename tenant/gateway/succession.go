package gateway

import (
	"context"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// Annotations on the Lease by which a takeover is known before it happens, so that Services lead to who is next by then: the kubelet, the
// API server and kube-proxy take a second or two for that.
//
//  1. Who is to end says that it is leaving. A Lease that was not renewed for half of what it holds says the same of a pod that died.
//  2. One of those that stand by writes its name; the API server lets one win. It is ready from then on, and active not yet.
//  3. When the kubelet has asked it and was told so, it writes that as well.
//  4. Who leaves gives the Lease back a little after that, or when it has waited long enough.
//  5. To the others, who is next holds the Lease already: they leave it a second to take it, after which it is anybody's.
//
// None of this lets anybody send: the Lease alone does.
const (
	annotationLeaving = "tenantwire.dev/leaving" // the holder's name
	annotationNext    = "tenantwire.dev/next"    // the name of who takes over
	annotationReady   = "tenantwire.dev/ready"   // the same, once the kubelet knows; empty before, and not there at all if nobody will say
)

// ending says whether the holder's time is about to be over.
func ending(o *coordinationv1.Lease, unrenewed, holds time.Duration) bool {
	return holder(o) != "" && (o.Annotations[annotationLeaving] == holder(o) || unrenewed > holds/2)
}

// foresee looks at a Lease that is not ours: should we prepare to take over?
func (l *lease) foresee(ctx context.Context, o *coordinationv1.Lease) {
	l.mu.Lock()
	unrenewed := l.fence.Now() - l.changed
	l.mu.Unlock()
	next := o.Annotations[annotationNext]
	switch {
	case holder(o) == "": // it happens now
	case !ending(o, unrenewed, l.holds):
		l.expect(false)
	case next == l.identity:
		l.expect(true)
		if l.foretold.Load() && o.Annotations[annotationReady] != l.identity {
			l.write(ctx, o, map[string]string{annotationReady: l.identity})
		}
	case next == "" || next == holder(o):
		if l.write(ctx, o, map[string]string{annotationNext: l.identity, annotationReady: ""}) {
			l.expect(true)
		}
	default:
		l.expect(false)
	}
}

// write changes annotations; false: not this time, as the Lease has changed. The next look says how.
func (l *lease) write(ctx context.Context, o *coordinationv1.Lease, annotations map[string]string) bool {
	o = o.DeepCopy()
	for name, value := range annotations {
		metav1.SetMetaDataAnnotation(&o.ObjectMeta, name, value)
	}
	o, err := l.client.Update(ctx, o, metav1.UpdateOptions{})
	if err != nil {
		return false
	}
	l.set(o)
	return true
}

// expect tells who stands by. Only the elector's goroutine calls it.
func (l *lease) expect(soon bool) {
	if l.expected == soon {
		return
	}
	l.expected = soon
	l.foretold.Store(false)
	select {
	case <-l.soon: // nobody has read that
	default:
	}
	l.soon <- soon
}

// seen is the Lease's record as the elector of this pod is to see it.
func (l *lease) seen(o *coordinationv1.Lease) *resourcelock.LeaderElectionRecord {
	r := resourcelock.LeaseSpecToLeaderElectionRecord(&o.Spec)
	if next := o.Annotations[annotationNext]; next != "" && next != l.identity && r.HolderIdentity != l.identity {
		r.HolderIdentity = next
	}
	return r
}

// announce writes what the holder says of a takeover into what it is about to write.
func (l *lease) announce(o *coordinationv1.Lease) {
	switch {
	case holder(o) != l.identity: // given back: who is next stays so
	case l.leaving:
		metav1.SetMetaDataAnnotation(&o.ObjectMeta, annotationLeaving, l.identity)
	default:
		delete(o.Annotations, annotationLeaving)
		delete(o.Annotations, annotationNext)
		delete(o.Annotations, annotationReady)
	}
}

// leave says that we are about to give the Lease back, and returns when that may be done: t.Notice after the kubelet has found another ready
// that is next, for which it waits no longer than t.Probed, and in any case after most, or when ctx ends.
func (l *lease) leave(ctx context.Context, t Timing, most time.Duration) {
	l.mu.Lock()
	l.leaving, l.asked = true, l.fence.Now()-l.every // a renewal is due
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	if !await(ctx, l.succeeded) {
		return
	}
	probed, stop := context.WithTimeout(ctx, t.Probed)
	defer stop()
	await(probed, l.successorReady)
	select {
	case <-ctx.Done():
	case <-time.After(t.Notice):
	}
}

// await looks again and again until it is so; false: ctx has ended before.
func await(ctx context.Context, so func() bool) bool {
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for !so() {
		select {
		case <-ctx.Done():
			return false
		case <-look.C:
		}
	}
	return true
}

// succeeded says whether another is next.
func (l *lease) succeeded() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	next := l.current.Annotations[annotationNext]
	return next != "" && next != l.identity
}

// successorReady says whether the kubelet knows that who is next is ready, or nobody will say so: a version before did not.
func (l *lease) successorReady() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	ready, told := l.current.Annotations[annotationReady]
	return !told || ready == l.current.Annotations[annotationNext]
}
