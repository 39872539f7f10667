package operator

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/tenantwire/tenantwire/manifests/catalogue"
	"github.com/tenantwire/tenantwire/tenant/coordinator"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
	"github.com/tenantwire/tenantwire/webhook"
)

// TestMetricsAreInTheCatalogue: the operator exports what docs/metrics.md says, with these labels, and nothing else of ours.
func TestMetricsAreInTheCatalogue(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	tunnel := &v1alpha1.TenantTunnel{ObjectMeta: metav1.ObjectMeta{Namespace: "acme", Name: "main"}}
	leads := make(chan struct{})
	close(leads)
	reg := prometheus.NewRegistry()
	if err := registerMetrics(reg, fake.NewClientBuilder().WithScheme(scheme).WithObjects(tunnel).Build(), leads, webhook.CertificateCollector(time.Now, time.Now), "v1.2.3"); err != nil {
		t.Fatal(err)
	}
	if err := coordinator.NewMetrics().Register(reg); err != nil {
		t.Fatal(err)
	}
	// The webhook registers its metrics itself.
	families, err := prometheus.Gatherers{reg, metrics.Registry}.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all, err := catalogue.Read()
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range catalogue.Check(all, "operator", families) {
		t.Error(problem)
	}
}
