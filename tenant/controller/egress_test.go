package controller

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/injector"
	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

func egressSpec(entries ...string) string {
	return fmt.Sprintf("{gateway: {}, addressing: {ipv4Pool: 10.0.0.0/24}, egress: [%s]}", strings.Join(entries, ", "))
}

const (
	dbEgress   = "{host: db.corp, address: 192.168.10.20, service: db, ports: [{port: 5432}, {port: 53, protocol: UDP}]}"
	mailEgress = "{host: mail.corp, address: 192.168.10.21, service: mail, ports: [{port: 25}]}"
)

// leadsTo wants a Service of the tunnel's with these ports, as PORT/PROTOCOL, each of which leads to where the status says.
func leadsTo(t *testing.T, tun *v1alpha1.TenantTunnel, name, ports string) {
	t.Helper()
	eventually(t, func() error {
		var s corev1.Service
		if err := cluster.admin.Get(t.Context(), client.ObjectKey{Namespace: tun.Namespace, Name: name}, &s); err != nil {
			return err
		}
		var got []string
		to := given(t, tun)
		for _, p := range s.Spec.Ports {
			k := tenant.EgressKey{Host: name + ".corp", Port: v1alpha1.Port{Port: p.Port, Protocol: v1alpha1.Protocol(p.Protocol)}}
			if got = append(got, fmt.Sprintf("%d/%s", p.Port, p.Protocol)); to[k] == 0 || to[k] != p.TargetPort.IntVal {
				return fmt.Errorf("%v leads to %s, the status says %v", k, p.TargetPort.String(), to)
			}
		}
		if strings.Join(got, " ") != ports || !tenant.OwnsEgressService(tun, &s) || s.Spec.Type != corev1.ServiceTypeClusterIP ||
			s.Spec.Selector[v1alpha1.LabelRole] != v1alpha1.LabelRoleGateway || s.Spec.Selector[v1alpha1.LabelTunnel] != tun.Name {
			return fmt.Errorf("%v, %+v", got, s)
		}
		return nil
	})
}

func noService(t *testing.T, ns, name string) {
	t.Helper()
	eventually(t, func() error {
		if err := cluster.admin.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: name}, &corev1.Service{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("Service %s is still there: %w", name, err)
		}
		return nil
	})
}

func accepted(t *testing.T, tun *v1alpha1.TenantTunnel, reason tenant.Reason, says string) {
	t.Helper()
	eventually(t, func() error {
		var now v1alpha1.TenantTunnel
		if err := cluster.admin.Get(t.Context(), client.ObjectKeyFromObject(tun), &now); err != nil {
			return err
		}
		c := meta.FindStatusCondition(now.Status.Conditions, v1alpha1.ConditionAccepted)
		if c == nil || c.Reason != string(reason) || c.Status != metav1.ConditionTrue || !strings.Contains(c.Message, says) {
			return fmt.Errorf("%+v", c)
		}
		return nil
	})
}

func given(t *testing.T, tun *v1alpha1.TenantTunnel) map[tenant.EgressKey]int32 {
	t.Helper()
	var now v1alpha1.TenantTunnel
	must(t, cluster.admin.Get(t.Context(), client.ObjectKeyFromObject(tun), &now))
	return tenant.EgressGiven(&now)
}

func setSpec(t *testing.T, tun *v1alpha1.TenantTunnel, patch string) {
	t.Helper()
	must(t, cluster.admin.Patch(t.Context(), tun, client.RawPatch("application/merge-patch+json", []byte(patch))))
}

// Services are made for the entries that name one, on ports that the status says and that stay; they go with their entry. What is
// somebody else's is never touched, keeps no other from being made, and the tunnel says so.
func TestEgressServices(t *testing.T) {
	start(t)
	ns := namespace(t)
	taken := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "mail", Labels: map[string]string{"app": "mail"}},
		Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "mail"}, Ports: []corev1.ServicePort{{Port: 25}}}}
	must(t, cluster.admin.Create(t.Context(), taken))
	peer := parse(t, "TunnelPeer", ns, "office", fmt.Sprintf("{tunnel: main, publicKey: %q, routes: [192.168.10.0/24]}", goodKey))
	must(t, cluster.admin.Create(t.Context(), peer))
	tun := makeTunnel(t, ns, egressSpec(mailEgress, dbEgress))
	leadsTo(t, tun, "db", "5432/TCP 53/UDP")
	accepted(t, tun, tenant.ReasonServiceTaken, "mail")
	var now corev1.Service
	must(t, cluster.admin.Get(t.Context(), client.ObjectKeyFromObject(taken), &now))
	if now.ResourceVersion != taken.ResourceVersion {
		t.Errorf("the Service of others was changed: %+v", now)
	}
	db, mail := tenant.EgressKey{Host: "db.corp", Port: v1alpha1.Port{Port: 5432, Protocol: v1alpha1.TCP}}, tenant.EgressKey{Host: "mail.corp", Port: v1alpha1.Port{Port: 25, Protocol: v1alpha1.TCP}}
	before := given(t, tun)
	if len(before) != 3 || before[mail] == 0 {
		t.Errorf("given: %v", before)
	}
	eventually(t, func() error {
		var p networkingv1.NetworkPolicy
		if err := cluster.admin.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "tenantwire-gateway-main"}, &p); err != nil {
			return err
		}
		if len(p.Spec.Ingress) != 2 || len(p.Spec.Ingress[1].Ports) != 3 || len(p.Spec.Ingress[1].From) != 1 || p.Spec.Ingress[1].From[0].NamespaceSelector != nil {
			return fmt.Errorf("the policy lets in %+v", p.Spec.Ingress)
		}
		return nil
	})

	must(t, cluster.admin.Delete(t.Context(), taken))
	leadsTo(t, tun, "mail", "25/TCP")
	accepted(t, tun, tenant.ReasonAccepted, "valid")

	// What others change or delete is set right.
	must(t, cluster.admin.Patch(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "db"}},
		client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"selector":{"tenantwire.dev/role":"member"}}}`))))
	leadsTo(t, tun, "db", "5432/TCP 53/UDP")
	must(t, cluster.admin.Delete(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "db"}}))
	leadsTo(t, tun, "db", "5432/TCP 53/UDP")

	setSpec(t, tun, `{"spec":{"egress":[{"host":"new.corp","address":"192.168.10.22","service":"new","ports":[{"port":1}]},
		{"host":"db.corp","address":"192.168.10.20","service":"db","ports":[{"port":5432},{"port":5433}]}]}}`)
	leadsTo(t, tun, "new", "1/TCP")
	leadsTo(t, tun, "db", "5432/TCP 5433/TCP")
	if now := given(t, tun); now[db] != before[db] {
		t.Errorf("the port of what stayed was %d and is %d", before[db], now[db])
	}
	noService(t, ns, "mail")
	own := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "own", Labels: map[string]string{
		v1alpha1.LabelEgress: v1alpha1.EgressEnabled, tenant.LabelManagedBy: tenant.ManagedBy, v1alpha1.LabelTunnel: "main"}},
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 25}}}}
	must(t, cluster.admin.Create(t.Context(), own)) // it has our labels and no owner
	setSpec(t, tun, `{"spec":{"gateway":null,"egress":[{"host":"db.corp","address":"192.168.10.20","ports":[{"port":5432}]}]}}`)
	noService(t, ns, "new")
	noService(t, ns, "db")
	noService(t, ns, "tenantwire-gateway-main")
	must(t, cluster.admin.Get(t.Context(), client.ObjectKeyFromObject(own), own))
}

// Two tunnels of a namespace that name one Service do not fight over it.
func TestEgressServiceOfTwoTunnels(t *testing.T) {
	start(t)
	ns := namespace(t)
	first := makeTunnel(t, ns, egressSpec(dbEgress))
	leadsTo(t, first, "db", "5432/TCP 53/UDP")
	u := parse(t, "TenantTunnel", ns, "second", egressSpec(dbEgress, mailEgress))
	must(t, cluster.admin.Create(t.Context(), u))
	second := &v1alpha1.TenantTunnel{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "second", UID: u.GetUID()}}
	leadsTo(t, second, "mail", "25/TCP")
	accepted(t, second, tenant.ReasonServiceTaken, "db")
	leadsTo(t, first, "db", "5432/TCP 53/UDP")
}

// Ports are given out for the very object that was read: from an older one nothing is written.
func TestEgressPortsAreWrittenOnce(t *testing.T) {
	needCluster(t)
	operator, err := client.New(cluster.operator, client.Options{Scheme: testScheme()})
	must(t, err)
	ns := namespace(t)
	tun := makeTunnel(t, ns, egressSpec(dbEgress))
	read := func() *v1alpha1.TenantTunnel {
		o := &v1alpha1.TenantTunnel{}
		must(t, cluster.admin.Get(t.Context(), client.ObjectKeyFromObject(tun), o))
		return o
	}
	write := func(o *v1alpha1.TenantTunnel) error {
		return writeTunnelStatus(t.Context(), operator, o, v1alpha1.TenantTunnelStatus{Addressing: &v1alpha1.AddressingStatus{}, Members: &v1alpha1.MemberCounts{},
			Gateway: &v1alpha1.GatewayStatus{Egress: tenant.EgressPorts(o)}})
	}
	old := read()
	setSpec(t, tun, `{"metadata":{"labels":{"a":"b"}}}`)
	if err := write(old); !apierrors.IsConflict(err) {
		t.Errorf("from an older object: %v, want a conflict", err)
	}
	must(t, write(read()))
	if got := given(t, tun); len(got) != 2 {
		t.Errorf("given: %v", got)
	}
	old = read()
	setSpec(t, tun, `{"metadata":{"labels":{"a":"c"}}}`)
	must(t, write(old)) // nothing new is given out
}

// The right to make Services by names that tenants choose is bounded to egress Services: of a tunnel, to its gateway. Nothing that was
// made by others can be changed, deleted or taken over with it.
func TestGatewayRightsAreBoundedForEgress(t *testing.T) {
	needCluster(t)
	operator, err := client.New(cluster.operator, client.Options{Scheme: testScheme()})
	must(t, err)
	ns := namespace(t)
	tun := &v1alpha1.TenantTunnel{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "main", UID: "11111111-1111-1111-1111-111111111111"},
		Spec: v1alpha1.TenantTunnelSpec{Gateway: &v1alpha1.Gateway{}, Egress: []v1alpha1.EgressHost{{Host: "db.corp", Address: "192.168.10.20", Service: "db",
			Ports: []v1alpha1.Port{{Port: 5432, Protocol: v1alpha1.TCP}}}}}}
	tun.Status.Gateway = &v1alpha1.GatewayStatus{Egress: tenant.EgressPorts(tun)}
	service := func(change func(*corev1.Service)) *corev1.Service {
		s := injector.EgressServices(tun)[0]
		if change != nil {
			change(s)
		}
		return s
	}
	refused := func(what string, err error) {
		t.Helper()
		if !apierrors.IsForbidden(err) && !apierrors.IsInvalid(err) {
			t.Errorf("%s: %v, want it refused", what, err)
		}
	}
	eventually(t, func() error { // the policy takes a moment to be in force
		if operator.Create(t.Context(), service(func(s *corev1.Service) { s.Labels = nil }), client.DryRunAll) == nil {
			return errors.New("not in force yet")
		}
		return nil
	})
	must(t, operator.Create(t.Context(), service(nil), client.DryRunAll)) // the control
	for name, change := range map[string]func(*corev1.Service){
		"no label of egress":      func(s *corev1.Service) { delete(s.Labels, v1alpha1.LabelEgress) },
		"another label of egress": func(s *corev1.Service) { s.Labels[v1alpha1.LabelEgress] = "x" },
		"nobody to manage it":     func(s *corev1.Service) { delete(s.Labels, tenant.LabelManagedBy) },
		"no owner":                func(s *corev1.Service) { s.OwnerReferences = nil },
		"another's kind": func(s *corev1.Service) {
			s.OwnerReferences[0].APIVersion, s.OwnerReferences[0].Kind = "v1", "ConfigMap"
		},
		"two owners": func(s *corev1.Service) {
			s.OwnerReferences = append(s.OwnerReferences, metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "x", UID: "x"})
		},
		"an owner that is no controller": func(s *corev1.Service) { s.OwnerReferences[0].Controller = nil },
		"other pods":                     func(s *corev1.Service) { s.Spec.Selector = map[string]string{"app": "x"} },
		"all pods of the tunnel":         func(s *corev1.Service) { delete(s.Spec.Selector, v1alpha1.LabelRole) },
		"another tunnel's pods":          func(s *corev1.Service) { s.Spec.Selector[v1alpha1.LabelTunnel] = "other" },
		"no pods":                        func(s *corev1.Service) { s.Spec.Selector = nil },
		"a node's port":                  func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeNodePort },
		"a load balancer":                func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeLoadBalancer },
		"a name elsewhere": func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ExternalName, s.Spec.Selector = corev1.ServiceTypeExternalName, "evil.example", nil
		},
		"another's address": func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"192.0.2.1"} },
		"who is not ready":  func(s *corev1.Service) { s.Spec.PublishNotReadyAddresses = true },
		"the port of health": func(s *corev1.Service) {
			s.Spec.Ports[0].TargetPort = intstr.FromInt32(51821)
		},
		"a port by name":        func(s *corev1.Service) { s.Spec.Ports[0].TargetPort = intstr.FromString("tw-health") },
		"the name of a gateway": func(s *corev1.Service) { s.Name = "tenantwire-gateway-main" },
	} {
		refused("a Service with "+name, operator.Create(t.Context(), service(change), client.DryRunAll))
	}

	// Of what is there already. The kind and the patch are what the operator would send.
	theirs := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "theirs"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
	claims := service(func(s *corev1.Service) { s.Name, s.OwnerReferences = "claims", nil })
	second := service(func(s *corev1.Service) {
		s.Name, s.OwnerReferences[0].UID = "second", types.UID("22222222-2222-2222-2222-222222222222")
	})
	ours := service(func(s *corev1.Service) { s.Name = "ours" })
	for _, o := range []*corev1.Service{theirs, claims, second, ours} {
		must(t, cluster.admin.Create(t.Context(), o))
	}
	for _, name := range []string{"theirs", "claims", "second", "ours"} {
		u, err := applyConfiguration(service(func(s *corev1.Service) { s.Name = name }))
		must(t, err)
		if _, err = apply(t.Context(), operator, u); name == "ours" {
			must(t, err)
		} else {
			refused("apply to Service "+name, err)
		}
	}
	for what, patch := range map[string]string{
		"its label":  `{"metadata":{"labels":{"tenantwire.dev/egress":null}}}`,
		"its owner":  `{"metadata":{"ownerReferences":[]}}`,
		"its target": `{"spec":{"selector":{"tenantwire.dev/role":"member"}}}`,
		"its tunnel": `{"metadata":{"ownerReferences":[{"apiVersion":"tenantwire.dev/v1alpha1","kind":"TenantTunnel","name":"main","controller":true,"uid":"33333333-3333-3333-3333-333333333333"}]}}`,
	} {
		refused("change "+what, operator.Patch(t.Context(), ours.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(patch))))
	}
	for _, o := range []*corev1.Service{theirs, claims} {
		refused("delete Service "+o.Name, operator.Delete(t.Context(), o))
	}
	must(t, operator.Delete(t.Context(), ours, client.Preconditions{UID: ptr.To(ours.UID)}))
}
