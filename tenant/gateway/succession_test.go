package gateway

import (
	"context"
	"io"
	"net/http"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

func TestEnding(t *testing.T) {
	const holds = 2 * time.Second
	for name, c := range map[string]struct {
		holder, leaving string
		unrenewed       time.Duration
		want            bool
	}{
		"it is renewed":           {"a", "", holds / 2, false},
		"it is not renewed":       {"a", "", holds/2 + 1, true},
		"it is leaving":           {"a", "a", 0, true},
		"who was before has left": {"a", "b", 0, false},
		"nobody's":                {"", "", time.Hour, false},
		"nobody's any more":       {"", "a", 0, false},
	} {
		o := &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{HolderIdentity: ptr.To(c.holder)}}
		if c.leaving != "" {
			metav1.SetMetaDataAnnotation(&o.ObjectMeta, annotationLeaving, c.leaving)
		}
		if got := ending(o, c.unrenewed, holds); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// Who is next holds the Lease already in the eyes of those that stand by, but neither in its own nor in the holder's.
func TestNextIsLeftToTakeIt(t *testing.T) {
	for name, c := range map[string]struct{ us, holder, next, want string }{
		"held":                     {"us", "a", "", "a"},
		"another is next":          {"us", "a", "b", "b"},
		"given back for another":   {"us", "", "b", "b"},
		"we are next":              {"us", "a", "us", "a"},
		"given back for us":        {"us", "", "us", ""},
		"we hold it":               {"us", "us", "b", "us"},
		"given back, for nobody":   {"us", "", "", ""},
		"we hold it for ourselves": {"us", "us", "us", "us"},
	} {
		o := &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{HolderIdentity: ptr.To(c.holder)}}
		if c.next != "" {
			metav1.SetMetaDataAnnotation(&o.ObjectMeta, annotationNext, c.next)
		}
		if got := (&lease{identity: c.us}).seen(o).HolderIdentity; got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestAnnounce(t *testing.T) {
	l := &lease{identity: "us", fence: datapath.NewFence()}
	o := &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{HolderIdentity: ptr.To("us")}}
	o.Annotations = map[string]string{annotationLeaving: "before", annotationNext: "us"}
	l.set(o)
	renew := func(by string) map[string]string {
		t.Helper()
		next, err := l.next(resourcelock.LeaderElectionRecord{HolderIdentity: by})
		must(t, err)
		return next.Annotations
	}
	if a := renew("us"); len(a) != 0 {
		t.Errorf("whoever has taken over keeps %v", a)
	}
	l.leaving = true
	if a := renew("us"); a[annotationLeaving] != "us" || a[annotationNext] != "us" {
		t.Errorf("whoever leaves says %v", a)
	}
	o.Annotations[annotationNext] = "another"
	if a := renew(""); a[annotationNext] != "another" {
		t.Errorf("it is given back with %v", a)
	}
}

// says is what a pod's readiness says, and whether it is ready.
func (p *pod) says() (string, bool) {
	res, err := (&http.Client{Timeout: 5 * time.Second}).Get("http://" + p.health + "/readyz")
	if err != nil {
		return "", false
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	return string(b), res.StatusCode == http.StatusOK
}

// A takeover that is told beforehand leaves no moment in which no pod is ready, and has one of those that stand by get ready for it, not
// two. The active one leaves as soon as that one has had its time.
func TestNobodyNotices(t *testing.T) {
	l := newLab(t)
	change := func(o *Options) { o.Linger, o.Timing.Notice = 5*time.Second, 500*time.Millisecond }
	first := l.start(t, "first", change)
	eventually(t, "the first is active", first.active)
	others := []*pod{l.start(t, "second", change), l.start(t, "third", change)}
	for _, p := range others {
		eventually(t, p.health+" stands by", func() bool { text, _ := p.says(); return text == "stands by\n" })
	}
	watch(t, first, others[0])
	watch(t, first, others[1])
	watch(t, others[0], others[1])
	ctx, stop := context.WithCancel(t.Context())
	looked := make(chan struct{})
	go func() {
		defer close(looked)
		for ctx.Err() == nil {
			ready := 0
			for _, p := range []*pod{others[0], others[1], first, others[0], others[1]} { // whoever is ready by the time that the first is not
				if _, ok := p.says(); ok {
					ready++
				}
			}
			if ready == 0 {
				t.Error("nobody is ready")
				return
			}
		}
	}()
	first.cancel()
	eventually(t, "another is active", func() bool { return others[0].active() != others[1].active() })
	<-first.done
	must(t, first.err)
	stop()
	<-looked
	for _, p := range others {
		if _, ready := p.says(); ready != p.active() {
			t.Error("who stands by is ready too")
		}
	}
	eventually(t, "nothing is left of it", func() bool {
		a := l.lease(t).Annotations
		return a[annotationNext] == "" && a[annotationReady] == "" && a[annotationLeaving] == ""
	})
}

// lease reads the Lease.
func (l *lab) lease(t *testing.T) *coordinationv1.Lease {
	t.Helper()
	c, err := client.New(cluster, client.Options{})
	must(t, err)
	var o coordinationv1.Lease
	must(t, c.Get(t.Context(), client.ObjectKey{Namespace: l.namespace, Name: "tenantwire-gateway-main"}, &o))
	return &o
}

// Who leaves waits until the kubelet knows that who is next is ready, but not for ever.
func TestLeaverAwaitsTheKubelet(t *testing.T) {
	const never = 10 * time.Minute // more than any test waits
	for name, c := range map[string]struct {
		probed time.Duration
		asked  bool
	}{"asked": {never, true}, "never asked": {time.Second, false}} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			first := l.start(t, "first", func(o *Options) { o.Linger, o.Timing.Notice, o.Timing.Probed = never, 10*time.Millisecond, c.probed })
			eventually(t, "the first is active", first.active)
			second := l.start(t, "second")
			eventually(t, "the second stands by", func() bool { text, _ := second.says(); return text == "stands by\n" })
			first.cancel()
			eventually(t, "the second is next", func() bool { return l.lease(t).Annotations[annotationNext] == "second" })
			time.Sleep(500 * time.Millisecond)
			if h := holder(l.lease(t)); h != "first" {
				t.Errorf("held by %q, and the kubelet does not know of the second", h)
			}
			if c.asked {
				eventually(t, "the second is asked", func() bool { _, ready := second.says(); return ready })
			}
			eventually(t, "the second has it", func() bool { return holder(l.lease(t)) == "second" })
			<-first.done
			must(t, first.err)
		})
	}
}

// Who is next and of a version that never says that the kubelet knows is not waited for.
func TestSuccessorOfBefore(t *testing.T) {
	for name, c := range map[string]struct {
		annotations map[string]string
		want        bool
	}{
		"it will say":     {map[string]string{annotationNext: "b", annotationReady: ""}, false},
		"it says so":      {map[string]string{annotationNext: "b", annotationReady: "b"}, true},
		"another did":     {map[string]string{annotationNext: "b", annotationReady: "c"}, false},
		"it says nothing": {map[string]string{annotationNext: "b"}, true},
	} {
		if got := (&lease{current: &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Annotations: c.annotations}}}).successorReady(); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// Who dies is succeeded by one that is ready before the Lease is over.
func TestDeathIsForeseen(t *testing.T) {
	l := newLab(t)
	first := l.start(t, "first")
	eventually(t, "the first is active", first.active)
	second := l.start(t, "second")
	watch(t, first, second)
	eventually(t, "the second stands by", func() bool { text, _ := second.says(); return text == "stands by\n" })
	first.cut.Store(true)
	eventually(t, "the second is about to take over", func() bool {
		text, ready := second.says()
		return ready && text == "about to take over\n" || text == "data path up\n"
	})
	eventually(t, "the second is active", second.active)
}
