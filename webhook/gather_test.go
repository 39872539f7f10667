package webhook

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// slow is an API server that takes a second for each answer and holds more tunnels every time.
type slow struct {
	client.Reader
	namespaces atomic.Int32
	tunnels    *atomic.Int32
}

func (s *slow) Get(context.Context, client.ObjectKey, client.Object, ...client.GetOption) error {
	s.namespaces.Add(1)
	time.Sleep(time.Second)
	return nil
}

func (s *slow) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	list.(*v1alpha1.TenantTunnelList).Items = make([]v1alpha1.TenantTunnel, s.tunnels.Load())
	return nil
}

// TestLiveReads: a hundred pods at once cost two reads, and each sees at least what was there when it came.
func TestLiveReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slow{tunnels: &atomic.Int32{}}
		l := newLiveReader(s)
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				came := s.tunnels.Add(1)
				v, err := l.read(t.Context(), "shop")
				if err != nil || len(v.tunnels) < int(came) {
					t.Errorf("%d tunnels, error %v; %d when it came", len(v.tunnels), err, came)
				}
			})
		}
		wg.Wait()
		if n := s.namespaces.Load(); n != 2 {
			t.Errorf("%d reads", n)
		}
		synctest.Wait()
		if len(l.running)+len(l.waiting) > 0 {
			t.Errorf("left behind: %v, %v", l.running, l.waiting)
		}
	})
}

// TestLiveReadGivesUp: a request does not wait longer than it may.
func TestLiveReadGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLiveReader(&slow{tunnels: &atomic.Int32{}})
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := l.read(ctx, "shop"); err == nil {
			t.Error("it waited")
		}
		time.Sleep(2 * time.Second) // let the read end
	})
}
