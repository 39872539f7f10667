package controller

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/coordinator"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// Pods that say that they go through the gateway are known with the shipped rights, by their addresses and nothing else, as soon as they
// have any and until they end; those of the namespace become clients of the gateway.
func TestPlainPods(t *testing.T) {
	needCluster(t)
	mgr, err := ctrl.NewManager(cluster.operator, ctrl.Options{Scheme: testScheme(), Cache: CacheOptions(operatorNamespace), Metrics: metricsserver.Options{BindAddress: "0"}})
	must(t, err)
	pods, err := NewPlainPods(mgr)
	must(t, err)
	changed := make(chan string, 64)
	tell := func(ns string) {
		select {
		case changed <- ns:
		default:
		}
	}
	must(t, coordinator.WatchPods(t.Context(), pods, tell))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		must(t, <-done)
	})
	ns, other := namespace(t), namespace(t)
	tun := makeTunnel(t, ns, egressSpec(dbEgress))
	setStatus := func(patch string) {
		must(t, cluster.admin.Status().Patch(t.Context(), tun, client.RawPatch("application/merge-patch+json", []byte(patch))))
	}
	setStatus(`{"status":{"gateway":{"egress":[{"host":"db.corp","port":5432,"protocol":"TCP","gatewayPort":20000}]}}}`)
	pod := func(ns, name string, change func(*corev1.Pod)) *corev1.Pod {
		return makePod(t, ns, name, "x", map[string]string{"huge": "value"}, func(p *corev1.Pod) {
			p.Labels = map[string]string{v1alpha1.LabelViaGateway: v1alpha1.ViaGatewayEnabled}
			if change != nil {
				change(p)
			}
		})
	}
	at := func(p *corev1.Pod, phase corev1.PodPhase, ip string) {
		t.Helper()
		p.Status.Phase, p.Status.PodIP, p.Status.PodIPs = phase, ip, []corev1.PodIP{{IP: ip}}
		if p.Spec.HostNetwork {
			p.Status.HostIP, p.Status.HostIPs = ip, []corev1.HostIP{{IP: ip}}
		}
		must(t, cluster.admin.Status().Update(t.Context(), p))
	}
	gateway := parse(t, "TunnelMember", ns, "gw", "{tunnel: main, role: Gateway, podUID: x, addresses: [10.0.0.1]}")
	must(t, cluster.admin.Create(t.Context(), gateway))

	store := &coordinator.ClusterStore{Client: mgr.GetClient(), Pods: pods}
	clients := func(want ...string) {
		t.Helper()
		eventually(t, func() error {
			st, ok, err := store.State(t.Context(), types.NamespacedName{Namespace: ns, Name: "main"})
			if err != nil || !ok {
				return fmt.Errorf("%t: %w", ok, err)
			}
			cfg, ok := tenant.NewNetwork(st).Config("gw")
			var got []string
			for _, a := range cfg.Clients {
				got = append(got, a.String())
			}
			if !ok || len(cfg.Relays) != 1 || !slices.Equal(got, want) {
				return fmt.Errorf("%t, relays %v, clients %v, want %v", ok, cfg.Relays, got, want)
			}
			return nil
		})
	}
	clients()
	legacy := pod(ns, "legacy", nil)
	at(legacy, corev1.PodRunning, "10.244.0.20")
	clients("10.244.0.20")
	at(pod(other, "legacy", nil), corev1.PodRunning, "10.244.0.21")
	at(pod(ns, "node", func(p *corev1.Pod) { p.Spec.HostNetwork = true }), corev1.PodRunning, "192.0.2.1")
	at(pod(ns, "silent", func(p *corev1.Pod) { p.Labels = nil }), corev1.PodRunning, "10.244.0.22")
	late := pod(ns, "late", func(p *corev1.Pod) { p.Labels = nil })
	at(late, corev1.PodRunning, "10.244.0.23")
	must(t, cluster.admin.Patch(t.Context(), late, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":{"tenantwire.dev/via-gateway":"enabled"}}}`))))
	clients("10.244.0.20", "10.244.0.23")
	var all corev1.PodList
	must(t, pods.List(t.Context(), &all, client.InNamespace(ns)))
	for _, p := range all.Items {
		if len(p.Annotations)+len(p.Spec.Containers)+len(p.ManagedFields) > 0 || p.Status.PodIP != "" || len(p.Status.HostIPs) > 0 {
			t.Errorf("more is kept of a pod than has to be: %+v", p)
		}
	}
	for len(changed) > 0 {
		<-changed
	}
	legacy.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	must(t, cluster.admin.Status().Update(t.Context(), legacy))
	legacy.Status.Phase = corev1.PodSucceeded
	must(t, cluster.admin.Status().Update(t.Context(), legacy))
	clients("10.244.0.23")
	deletePod(t, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "late"}})
	clients()
	for range 2 { // the end of one and the deletion of the other, and not that one became ready
		select {
		case got := <-changed:
			if got != ns {
				t.Errorf("namespace %s changed", got)
			}
		case <-time.After(patience):
			t.Fatal("nobody was told")
		}
	}
	select {
	case <-changed:
		t.Error("told more often than something changed")
	case <-time.After(100 * time.Millisecond):
	}
}
