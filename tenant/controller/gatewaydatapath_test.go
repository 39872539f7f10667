package controller

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/injector"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// setLevel labels a namespace with a Pod Security level.
func setLevel(t *testing.T, ns, level string) {
	t.Helper()
	o := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}
	must(t, cluster.admin.Patch(t.Context(), o, client.RawPatch("application/merge-patch+json",
		fmt.Appendf(nil, `{"metadata":{"labels":{%q:%q}}}`, injector.LevelLabel, level))))
}

// A gateway on TUN is made where its namespace allows it, and as soon as it does; elsewhere the tunnel says why it is not, nothing is made,
// and what there is stays as it is.
func TestGatewayDatapath(t *testing.T) {
	start(t)
	ns := namespace(t)
	setLevel(t, ns, "restricted")
	tun := makeTunnel(t, ns, "{gateway: {datapath: TUN}}")
	at := client.ObjectKey{Namespace: ns, Name: "tenantwire-gateway-main"}
	isRefused := func(level string) {
		t.Helper()
		eventually(t, func() error {
			var now v1alpha1.TenantTunnel
			if err := cluster.admin.Get(t.Context(), client.ObjectKeyFromObject(tun), &now); err != nil {
				return err
			}
			c := meta.FindStatusCondition(now.Status.Conditions, v1alpha1.ConditionReady)
			if c == nil || c.Status != metav1.ConditionFalse || c.Reason != "GatewayDatapathForbidden" || !strings.Contains(c.Message, "level "+level) {
				return fmt.Errorf("%+v", c)
			}
			return nil
		})
	}
	isRefused("restricted")
	eventually(t, func() error {
		var events eventsv1.EventList
		if err := cluster.admin.List(t.Context(), &events, client.InNamespace(ns)); err != nil {
			return err
		}
		if !slices.ContainsFunc(events.Items, func(e eventsv1.Event) bool {
			return e.Reason == "GatewayDatapathForbidden" && e.Regarding.Name == "main" && strings.Contains(e.Note, "spec.gateway.datapath: TUN")
		}) {
			return fmt.Errorf("none of it among %d Events", len(events.Items))
		}
		return nil
	})
	for _, o := range gatewayParts() {
		if err := cluster.admin.Get(t.Context(), at, o); !apierrors.IsNotFound(err) {
			t.Errorf("%T was made: %v", o, err)
		}
	}

	setLevel(t, ns, "privileged")
	deployed := func(netAdmin bool) (d appsv1.Deployment) {
		t.Helper()
		eventually(t, func() error {
			if err := cluster.admin.Get(t.Context(), at, &d); err != nil {
				return err
			}
			ct := d.Spec.Template.Spec.Containers[0]
			if has := slices.Contains(ct.SecurityContext.Capabilities.Add, "NET_ADMIN"); has != netAdmin || has != slices.Contains(ct.Args, "--datapath=TUN") {
				return fmt.Errorf("capabilities %v, arguments %v", ct.SecurityContext.Capabilities, ct.Args)
			}
			return nil
		})
		return d
	}
	deployed(true)
	change := func(patch string) {
		t.Helper()
		must(t, cluster.admin.Patch(t.Context(), tun, client.RawPatch("application/merge-patch+json", []byte(patch))))
	}
	change(`{"spec":{"gateway":{"datapath":"Netstack"}}}`)
	before := deployed(false)

	setLevel(t, ns, "baseline")
	change(`{"spec":{"gateway":{"datapath":"TUN"}}}`)
	isRefused("baseline")
	if after := deployed(false); after.Generation != before.Generation {
		t.Error("what runs was changed")
	}
	change(`{"spec":{"gateway":{"datapath":"Auto"}}}`)
	eventually(t, func() error {
		var d appsv1.Deployment
		if err := cluster.admin.Get(t.Context(), at, &d); err != nil {
			return err
		}
		if ct := d.Spec.Template.Spec.Containers[0]; len(ct.SecurityContext.Capabilities.Add) > 0 ||
			!slices.ContainsFunc(ct.Args, func(a string) bool { return strings.HasPrefix(a, "--datapath-why=Auto: Netstack; namespace "+ns) }) {
			return fmt.Errorf("capabilities %v, arguments %v", ct.SecurityContext.Capabilities, ct.Args)
		}
		return nil
	})
	change(`{"spec":{"gateway":null}}`)
	eventually(t, func() error {
		if err := cluster.admin.Get(t.Context(), at, &appsv1.Deployment{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("still there: %w", err)
		}
		return nil
	})
}

// The API server refuses a gateway on what is no datapath and says what there is, gives Netstack where nothing is said, and the operator itself
// cannot give NET_ADMIN to a gateway where the namespace's level forbids it.
func TestGatewayDatapathBounds(t *testing.T) {
	needCluster(t)
	ns := namespace(t)
	tun := &v1alpha1.TenantTunnel{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "main"}, Spec: v1alpha1.TenantTunnelSpec{Gateway: &v1alpha1.Gateway{Datapath: "Warp"}}}
	if err := cluster.admin.Create(t.Context(), tun); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), `"Auto", "Kernel", "TUN", "Netstack"`) {
		t.Errorf("Warp: %v", err)
	}
	tun = &v1alpha1.TenantTunnel{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "main"}, Spec: v1alpha1.TenantTunnelSpec{Gateway: &v1alpha1.Gateway{}}}
	must(t, cluster.admin.Create(t.Context(), tun))
	if tun.Spec.Gateway.Datapath != v1alpha1.DatapathNetstack {
		t.Errorf("by default: %q", tun.Spec.Gateway.Datapath)
	}
	operator, err := client.New(cluster.operator, client.Options{Scheme: testScheme()})
	must(t, err)
	tun.Spec.Gateway.Datapath = v1alpha1.DatapathTUN
	pods := gatewayPods()
	try := func() error {
		objects := pods.Gateway(tun, injector.Site{Namespace: &corev1.Namespace{}})
		return operator.Create(t.Context(), objects[len(objects)-1].(client.Object), client.DryRunAll)
	}
	for level, allowed := range map[string]bool{"privileged": true, "baseline": false, "restricted": false} {
		setLevel(t, ns, level)
		eventually(t, func() error { // the policy, and the namespace that it sees, take a moment
			if err := try(); (err == nil) != allowed || err != nil && !apierrors.IsForbidden(err) && !apierrors.IsInvalid(err) {
				return errors.Join(fmt.Errorf("at level %s, want it allowed: %t", level, allowed), err)
			}
			return nil
		})
	}
}
