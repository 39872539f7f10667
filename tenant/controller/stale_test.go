package controller

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// stale is a cache in which no TunnelMember ever arrives.
type stale struct{ client.Client }

func (s stale) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	if _, ok := list.(*v1alpha1.TunnelMemberList); ok {
		return nil
	}
	return s.Client.List(ctx, list, opts...)
}

// A cache that lags gives nobody's address away, neither what this leader wrote nor what the one before it did.
func TestStaleCache(t *testing.T) {
	needCluster(t)
	operator, err := client.New(cluster.operator, client.Options{Scheme: testScheme()})
	must(t, err)
	ns := namespace(t)
	makeTunnel(t, ns, "{addressing: {ipv4Pool: 10.77.0.0/24}}")
	joined := map[string][]string{}
	for leader := range 2 {
		now := time.Unix(1000, 0)
		clock := func() time.Time { now = now.Add(time.Millisecond); return now }
		r := &tunnelReconciler{client: stale{operator}, live: operator, recorder: events.NewFakeRecorder(100), memory: newMemory(clock), options: Options{}}
		var first *corev1.Pod
		for i := range 5 {
			pod := makePod(t, ns, fmt.Sprintf("p-%d-%d", leader, i), "main", nil)
			if i == 0 {
				first = pod
			}
			if i == 3 { // from here on, giving out all addresses anew would give others than before
				deletePod(t, first)
				delete(joined, first.Name)
			}
			_, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: client.ObjectKey{Namespace: ns, Name: "main"}})
			must(t, err)
			joined[pod.Name] = getMember(t, pod).Spec.Addresses
			sameAddresses(t, ns, joined)
		}
	}
}

// sameAddresses holds members to the addresses that they joined with, and these to be different ones.
func sameAddresses(t *testing.T, ns string, joined map[string][]string) {
	t.Helper()
	owner := map[string]string{}
	for name, addresses := range joined {
		var m v1alpha1.TunnelMember
		must(t, cluster.admin.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: name}, &m))
		if !slices.Equal(m.Spec.Addresses, addresses) {
			t.Errorf("%s joined with %v and has %v", name, addresses, m.Spec.Addresses)
		}
		for _, a := range addresses {
			if other, taken := owner[a]; taken {
				t.Errorf("%s and %s share %s", other, name, a)
			}
			owner[a] = name
		}
	}
}
