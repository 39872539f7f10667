package injector

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// testEgress is a tunnel with two hosts that have Services, one that has none, and one that the status says nothing of yet.
func testEgress() (*Config, *v1alpha1.TenantTunnel) {
	c, t := testGateway()
	host := func(name, service string, ports ...v1alpha1.Port) v1alpha1.EgressHost {
		return v1alpha1.EgressHost{Host: name, Address: "10.20.0.5", Service: service, Ports: ports}
	}
	t.Spec.Egress = []v1alpha1.EgressHost{
		host("db.corp.internal", "db", v1alpha1.Port{Port: 5432, Protocol: v1alpha1.TCP}),
		host("dns.corp.internal", "resolver", v1alpha1.Port{Port: 53, Protocol: v1alpha1.UDP}, v1alpha1.Port{Port: 53, Protocol: v1alpha1.TCP}),
		host("inside.corp.internal", "", v1alpha1.Port{Port: 80, Protocol: v1alpha1.TCP}),
	}
	t.Status.Gateway = &v1alpha1.GatewayStatus{Egress: tenant.EgressPorts(t)}
	t.Spec.Egress = append(t.Spec.Egress, host("new.corp.internal", "new", v1alpha1.Port{Port: 443, Protocol: v1alpha1.TCP}))
	return c, t
}

// TestEgressObjects compares egress Services, and what the NetworkPolicy lets in for them, with testdata/egress.yaml.
func TestEgressObjects(t *testing.T) {
	c, tunnel := testEgress()
	g := gateway{Config: c, tunnel: tunnel, name: tenant.GatewayName(tunnel.Name)}
	var objects []runtime.Object
	for _, s := range EgressServices(tunnel) {
		objects = append(objects, s)
	}
	compareObjects(t, "testdata/egress.yaml", append(objects, g.networkPolicy()))
	for _, s := range EgressServices(tunnel) {
		if !tenant.OwnsEgressService(tunnel, s) {
			t.Errorf("Service %s would not be known as ours", s.Name)
		}
	}
}

func patchEgress(t testing.TB, in Input) []byte {
	t.Helper()
	patch, err := PatchViaGateway(in.Raw)
	if err != nil {
		t.Fatal(err)
	}
	return apply(t, in.Raw, patch)
}

// The label is set on pods that are let through where there is a gateway, once, and on no others.
func TestViaGatewayLabel(t *testing.T) {
	_, tunnel := testEgress()
	optOut := annotate(v1alpha1.AnnotationInject, "false")
	with := func(change ...func(*Input)) Input {
		in := testInput()
		in.Tunnels[0] = *tunnel.DeepCopy()
		for _, f := range change {
			f(in)
		}
		return finish(t, in)
	}
	say := func(value string) func(*Input) {
		return func(in *Input) { in.Pod.Labels[v1alpha1.LabelViaGateway] = value }
	}
	notSelected := func(in *Input) {
		in.Tunnels[0].Spec.Members.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
	}
	for name, c := range map[string]struct {
		in     Input
		reason Reason
		want   bool
	}{
		"opted out":       {with(optOut), OptedOut, true},
		"not selected":    {with(notSelected), NotSelected, true},
		"no labels":       {with(optOut, func(in *Input) { in.Pod.Labels = nil }), OptedOut, true},
		"joins":           {with(), Injected, false},
		"says yes":        {with(optOut, say("enabled")), OptedOut, false},
		"says no":         {with(optOut, say("disabled")), OptedOut, false},
		"member says yes": {with(say("enabled")), Injected, false},
		"mistyped":        {with(optOut, say("true")), MalformedAnnotation, false},
		"host network":    {with(optOut, func(in *Input) { in.Pod.Spec.HostNetwork = true }), OptedOut, false},
		"not opted in":    {with(func(in *Input) { in.Namespace.Labels = nil }), NamespaceNotOptedIn, false},
		"no egress":       {with(optOut, func(in *Input) { in.Tunnels[0].Spec.Egress = nil }), OptedOut, true},
		"no gateway":      {with(optOut, func(in *Input) { in.Tunnels[0].Spec.Gateway = nil }), OptedOut, false},
		"tunnel going":    {with(optOut, func(in *Input) { deleting(&in.Tunnels[0]) }), OptedOut, false},
	} {
		d := Decide(c.in)
		if d.Reason != c.reason || d.ViaGateway != c.want {
			t.Errorf("%s: %s, label %t", name, d.Reason, d.ViaGateway)
		}
		if !d.ViaGateway {
			continue
		}
		patched := patchEgress(t, c.in)
		assertNothingLost(t, c.in.Raw, patched)
		pod, err := ParsePod(patched)
		if err != nil || pod.Labels[v1alpha1.LabelViaGateway] != v1alpha1.ViaGatewayEnabled || len(pod.Spec.InitContainers) != len(c.in.Pod.Spec.InitContainers) {
			t.Errorf("%s: %v, labels %v", name, err, pod.Labels)
		}
		if again, err := PatchViaGateway(patched); again != nil || err != nil {
			t.Errorf("%s, the second time: %s %v", name, again, err)
		}
	}
	if _, err := PatchViaGateway([]byte("[]")); err == nil {
		t.Error("patched what is no pod")
	}
}

// Every port that a spec can list has a name that a Service can have, and one of its own.
func TestEgressPortNames(t *testing.T) {
	_, tunnel := testEgress()
	ports := []v1alpha1.Port{{Port: 65535, Protocol: v1alpha1.TCP}, {Port: 65535, Protocol: v1alpha1.UDP}, {Port: 1}}
	tunnel.Spec.Egress = []v1alpha1.EgressHost{{Host: "h", Address: "10.20.0.5", Service: "h", Ports: ports}}
	tunnel.Status.Gateway.Egress = tenant.EgressPorts(tunnel)
	var got []string
	for _, p := range EgressServices(tunnel)[0].Spec.Ports {
		got = append(got, fmt.Sprintf("%s=%d/%s", p.Name, p.Port, p.Protocol))
		if len(p.Name) > 15 {
			t.Errorf("%s is too long", p.Name)
		}
	}
	if want := []string{"tcp-65535=65535/TCP", "udp-65535=65535/UDP", "tcp-1=1/TCP"}; !cmp.Equal(got, want) {
		t.Errorf("%v", got)
	}
}
