package controller

import (
	"errors"
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/injector"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

func gatewayPods() injector.Config {
	c := injector.DefaultConfig()
	c.Image, c.GatewayImage, c.CoordinatorURL = "sidecar:test", "gateway:test", "https://tenantwire-coordinator.tenantwire-system.svc"
	return c
}

// gatewayParts are all that a gateway consists of.
func gatewayParts() []client.Object {
	return []client.Object{&corev1.ServiceAccount{}, &coordinationv1.Lease{}, &rbacv1.Role{}, &rbacv1.RoleBinding{}, &corev1.Service{},
		&networkingv1.NetworkPolicy{}, &policyv1.PodDisruptionBudget{}, &appsv1.Deployment{}}
}

// A gateway is made, follows its tunnel's spec, and goes with it; its key is made once and is good. What the shipped role lacks for
// any of that fails the test too.
func TestGatewayObjects(t *testing.T) {
	start(t)
	ns := namespace(t)
	tun := makeTunnel(t, ns, "{gateway: {replicas: 3, service: {type: NodePort}}}")
	at := client.ObjectKey{Namespace: ns, Name: "tenantwire-gateway-main"}
	there := func() error {
		for _, o := range gatewayParts() {
			if err := cluster.admin.Get(t.Context(), at, o); err != nil {
				return err
			}
			if !metav1.IsControlledBy(o, tun) {
				return fmt.Errorf("%T is owned by %+v", o, o.GetOwnerReferences())
			}
		}
		return nil
	}
	eventually(t, there)
	var secret corev1.Secret
	keyAt := client.ObjectKey{Namespace: ns, Name: injector.GatewayKey(tun, "").Name}
	must(t, cluster.admin.Get(t.Context(), keyAt, &secret))
	made := string(secret.Data[injector.KeyName])
	if _, err := key.ParsePrivate(made); err != nil {
		t.Errorf("the key of %d bytes: %v", len(made), err)
	}
	var d appsv1.Deployment
	must(t, cluster.admin.Get(t.Context(), at, &d))
	if *d.Spec.Replicas != 3 || d.Spec.Template.Spec.Containers[0].Image != "gateway:test" {
		t.Errorf("%d replicas of %s", *d.Spec.Replicas, d.Spec.Template.Spec.Containers[0].Image)
	}

	change := func(patch string) {
		t.Helper()
		must(t, cluster.admin.Patch(t.Context(), tun, client.RawPatch("application/merge-patch+json", []byte(patch))))
	}
	change(`{"spec":{"gateway":{"replicas":1,"service":{"type":"ClusterIP","port":443,"annotations":{"a":"b"}}}}}`)
	eventually(t, func() error {
		var s corev1.Service
		err := errors.Join(cluster.admin.Get(t.Context(), at, &d), cluster.admin.Get(t.Context(), at, &s))
		if err == nil && (*d.Spec.Replicas != 1 || s.Spec.Type != corev1.ServiceTypeClusterIP || s.Spec.Ports[0].Port != 443 || s.Annotations["a"] != "b") {
			err = fmt.Errorf("%d replicas, Service %+v", *d.Spec.Replicas, s.Spec)
		}
		return err
	})
	must(t, cluster.admin.Get(t.Context(), keyAt, &secret))
	if string(secret.Data[injector.KeyName]) != made {
		t.Error("the key is another one now")
	}

	// What somebody deletes comes back.
	must(t, cluster.admin.Delete(t.Context(), &d))
	eventually(t, there)

	change(`{"spec":{"gateway":null}}`)
	eventually(t, func() error {
		if err := cluster.admin.Get(t.Context(), keyAt, &secret); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the key is still there: %w", err)
		}
		for _, o := range gatewayParts() {
			if err := cluster.admin.Get(t.Context(), at, o); !apierrors.IsNotFound(err) {
				return fmt.Errorf("%T is still there: %w", o, err)
			}
		}
		return nil
	})
}

// A gateway's pod becomes a member in that role, without ports; the tunnel's status says who is active, and does not count it.
func TestGatewayMember(t *testing.T) {
	start(t)
	ns := namespace(t)
	tun := makeTunnel(t, ns, "{gateway: {}}")
	tun.Spec.Gateway = &v1alpha1.Gateway{}
	claims := func(p *corev1.Pod) { p.Labels[v1alpha1.LabelRole] = v1alpha1.LabelRoleGateway }
	if m := getMember(t, makePod(t, ns, "claims", "main", nil, claims)); m.Spec.Role != v1alpha1.RoleMember {
		t.Errorf("a pod that only has the label is a %s", m.Spec.Role)
	}
	deletePod(t, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "claims"}})
	noMember(t, ns, "claims")
	eventually(t, func() error {
		return cluster.admin.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "tenantwire-gateway-main"}, &corev1.ServiceAccount{})
	})
	pod := makePod(t, ns, "tenantwire-gateway-main-x", "main", map[string]string{v1alpha1.AnnotationExpose: "22"}, claims,
		func(p *corev1.Pod) { p.Spec.ServiceAccountName = "tenantwire-gateway-main" })
	m := getMember(t, pod)
	if m.Spec.Role != v1alpha1.RoleGateway || len(m.Spec.Ports) != 0 {
		t.Errorf("role %q, ports %v", m.Spec.Role, m.Spec.Ports)
	}
	status := func(want v1alpha1.GatewayStatus, reason string) {
		t.Helper()
		for _, a := range tenant.GatewayAddresses(tun, nil) {
			want.Addresses = append(want.Addresses, a.String())
		}
		eventually(t, func() error {
			var now v1alpha1.TenantTunnel
			if err := cluster.admin.Get(t.Context(), client.ObjectKeyFromObject(tun), &now); err != nil {
				return err
			}
			if g := now.Status.Gateway; g == nil || !equality.Semantic.DeepEqual(*g, want) || now.Status.Members.Total != 0 || string(reasonOf(now.Status.Conditions, v1alpha1.ConditionReady)) != reason {
				return fmt.Errorf("gateway %+v, status %+v", g, now.Status)
			}
			return nil
		})
	}
	budget := func(want policyv1.UnhealthyPodEvictionPolicyType) {
		t.Helper()
		eventually(t, func() error {
			var b policyv1.PodDisruptionBudget
			err := cluster.admin.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "tenantwire-gateway-main"}, &b)
			if err == nil && *b.Spec.UnhealthyPodEvictionPolicy != want {
				err = fmt.Errorf("pods that are not ready: %s", *b.Spec.UnhealthyPodEvictionPolicy)
			}
			return err
		})
	}
	status(v1alpha1.GatewayStatus{}, "GatewayNotReady")
	m.Status = v1alpha1.TunnelMemberStatus{PublicKey: goodKey, Endpoint: "10.0.0.1:51820", Datapath: v1alpha1.DatapathNetstack,
		Conditions: []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: "DataPathDown", Message: "stands by", LastTransitionTime: metav1.Now()}}}
	must(t, cluster.admin.Status().Update(t.Context(), m))
	status(v1alpha1.GatewayStatus{PublicKey: goodKey}, "GatewayNotReady")
	m.Status.Conditions[0].Status, m.Status.Conditions[0].Reason = metav1.ConditionTrue, "DataPathUp"
	must(t, cluster.admin.Status().Update(t.Context(), m))
	status(v1alpha1.GatewayStatus{PublicKey: goodKey, Active: pod.Name}, "NoMembers")
	budget(policyv1.IfHealthyBudget) // where somebody can take over, one is evicted after another
	m.Status.Conditions[0].Status, m.Status.Conditions[0].Reason = metav1.ConditionFalse, "DataPathDown"
	must(t, cluster.admin.Status().Update(t.Context(), m))
	status(v1alpha1.GatewayStatus{PublicKey: goodKey}, "GatewayNotReady")
	budget(policyv1.IfHealthyBudget) // it is about to
}

// What the operator may do for gateways leads to no Secret of a tenant: the API server's policy refuses what is none, and what was made
// by others.
func TestGatewayRightsAreBounded(t *testing.T) {
	needCluster(t)
	operator, err := client.New(cluster.operator, client.Options{Scheme: testScheme()})
	must(t, err)
	ns := namespace(t)
	must(t, cluster.admin.Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "password"}}))
	must(t, cluster.admin.Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "tenantwire-gateway-mine"}}))
	pods := gatewayPods()
	objects := func() map[string]client.Object {
		tun := &v1alpha1.TenantTunnel{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "main", UID: "11111111-1111-1111-1111-111111111111"},
			Spec: v1alpha1.TenantTunnelSpec{Gateway: &v1alpha1.Gateway{Service: v1alpha1.GatewayService{Type: v1alpha1.GatewayClusterIP, Port: 51820}}}}
		out := map[string]client.Object{"Secret": injector.GatewayKey(tun, "x")}
		for _, o := range pods.Gateway(tun, injector.Site{}) {
			out[o.GetObjectKind().GroupVersionKind().Kind] = o.(client.Object)
		}
		return out
	}
	must(t, cluster.admin.Create(t.Context(), objects()["Role"])) // or else it could not even be asked whether it may be bound
	try := func(o client.Object) error { return operator.Create(t.Context(), o, client.DryRunAll) }
	eventually(t, func() error { // the policy takes a moment to be in force
		o := objects()["Deployment"]
		o.SetName("other")
		if try(o) == nil {
			return errors.New("not in force yet")
		}
		return nil
	})
	for kind, o := range objects() { // the control
		if err := try(o); err != nil && !apierrors.IsAlreadyExists(err) {
			t.Errorf("%s of a gateway: %v", kind, err)
		}
	}
	pod := func(change func(*corev1.PodSpec)) func(client.Object) {
		return func(o client.Object) { change(&o.(*appsv1.Deployment).Spec.Template.Spec) }
	}
	volume := func(s corev1.VolumeSource) func(client.Object) {
		return pod(func(p *corev1.PodSpec) { p.Volumes = append(p.Volumes, corev1.Volume{Name: "x", VolumeSource: s}) })
	}
	env := func(s corev1.EnvVarSource) func(client.Object) {
		return pod(func(p *corev1.PodSpec) {
			p.Containers[0].Env = append(p.Containers[0].Env, corev1.EnvVar{Name: "X", ValueFrom: &s})
		})
	}
	for name, c := range map[string]struct {
		kind   string
		change func(client.Object)
	}{
		"a Secret":                        {"Deployment", volume(corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "password"}})},
		"another tunnel's preshared keys": {"Deployment", volume(corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "tenantwire-psk-other"}})},
		"a projected Secret":              {"Deployment", volume(corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "password"}}}}}})},
		"a file of the node":              {"Deployment", volume(corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}})},
		"a claim":                         {"Deployment", volume(corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "x"}})},
		"a CSI volume":                    {"Deployment", volume(corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: "secrets-store.csi.k8s.io"}})},
		"a variable of a Secret":          {"Deployment", env(corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "password"}, Key: "x"}})},
		"all variables of a Secret": {"Deployment", pod(func(p *corev1.PodSpec) {
			p.Containers[0].EnvFrom = []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{}}}
		})},
		"another account":    {"Deployment", pod(func(p *corev1.PodSpec) { p.ServiceAccountName = "default" })},
		"a second container": {"Deployment", pod(func(p *corev1.PodSpec) { p.Containers = append(p.Containers, corev1.Container{Name: "x", Image: "x"}) })},
		"an init container":  {"Deployment", pod(func(p *corev1.PodSpec) { p.InitContainers = []corev1.Container{{Name: "x", Image: "x"}} })},
		"the node's network": {"Deployment", pod(func(p *corev1.PodSpec) { p.HostNetwork = true })},
		"another capability": {"Deployment", pod(func(p *corev1.PodSpec) {
			p.Containers[0].SecurityContext.Capabilities.Add = []corev1.Capability{"SYS_ADMIN"}
		})},
		"one capability more": {"Deployment", pod(func(p *corev1.PodSpec) {
			p.Containers[0].SecurityContext.Capabilities.Add = []corev1.Capability{"NET_ADMIN", "NET_RAW"}
		})},
		"a capability that grows": {"Deployment", pod(func(p *corev1.PodSpec) {
			p.Containers[0].SecurityContext.Capabilities.Add = []corev1.Capability{"NET_ADMIN"}
			p.Containers[0].SecurityContext.AllowPrivilegeEscalation = ptr.To(true)
		})},
		"a budget that keeps a pod": {"PodDisruptionBudget", func(o client.Object) {
			o.(*policyv1.PodDisruptionBudget).Spec.MaxUnavailable = ptr.To(intstr.FromInt32(1))
		}},
		"a budget that keeps all": {"PodDisruptionBudget", func(o client.Object) {
			s := &o.(*policyv1.PodDisruptionBudget).Spec
			s.MaxUnavailable, s.MinAvailable = nil, ptr.To(intstr.FromString("100%"))
		}},
		"a budget for other pods": {"PodDisruptionBudget", func(o client.Object) {
			o.(*policyv1.PodDisruptionBudget).Spec.Selector = &metav1.LabelSelector{}
		}},
		"no label":     {"Deployment", func(o client.Object) { o.SetLabels(nil) }},
		"another name": {"Secret", func(o client.Object) { o.SetName("x") }},
		"an account's token": {"Secret", func(o client.Object) {
			o.(*corev1.Secret).Type = corev1.SecretTypeServiceAccountToken
			o.SetAnnotations(map[string]string{corev1.ServiceAccountNameKey: "default"})
		}},
		"rights over Secrets": {"Role", func(o client.Object) {
			o.(*rbacv1.Role).Rules = []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get"}}}
		}},
		"rights over every Lease": {"Role", func(o client.Object) { o.(*rbacv1.Role).Rules[0].ResourceNames = nil }},
		"another's role": {"RoleBinding", func(o client.Object) {
			o.(*rbacv1.RoleBinding).RoleRef = rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "admin"}
		}},
		"another to bind":     {"RoleBinding", func(o client.Object) { o.(*rbacv1.RoleBinding).Subjects[0].Name = "default" }},
		"another's namespace": {"RoleBinding", func(o client.Object) { o.(*rbacv1.RoleBinding).Subjects[0].Namespace = "default" }},
		"a name elsewhere": {"Service", func(o client.Object) {
			s := o.(*corev1.Service)
			s.Spec.Type, s.Spec.ExternalName, s.Spec.Selector = corev1.ServiceTypeExternalName, "evil.example", nil
		}},
		"a Lease of others": {"Lease", func(o client.Object) { o.SetName("kube-scheduler") }},
	} {
		o := objects()[c.kind]
		if c.change(o); c.kind == "Role" {
			o.SetName("tenantwire-gateway-second")
		}
		if err := try(o); !apierrors.IsForbidden(err) && !apierrors.IsInvalid(err) {
			t.Errorf("%s with %s: %v, want it refused", c.kind, name, err)
		}
	}
	for _, name := range []string{"password", "tenantwire-gateway-mine"} { // made by others, and one even has the name
		if err := operator.Delete(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}); !apierrors.IsForbidden(err) && !apierrors.IsInvalid(err) {
			t.Errorf("delete Secret %s: %v, want it refused", name, err)
		}
	}
}

// A key that somebody put where the gateway's belongs, as who restores a backup does, is the gateway's, and nobody's to replace.
func TestGatewayKeyIsRestored(t *testing.T) {
	start(t)
	ns := namespace(t)
	tun := makeTunnel(t, ns, "{}")
	restored := injector.GatewayKey(tun, key.NewPrivate().Reveal())
	restored.OwnerReferences, restored.Labels = nil, nil
	want := restored.StringData[injector.KeyName]
	must(t, cluster.admin.Create(t.Context(), restored))
	must(t, cluster.admin.Patch(t.Context(), tun, client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"gateway":{}}}`))))
	eventually(t, func() error {
		var d appsv1.Deployment
		return cluster.admin.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "tenantwire-gateway-main"}, &d)
	})
	var secret corev1.Secret
	must(t, cluster.admin.Get(t.Context(), client.ObjectKeyFromObject(restored), &secret))
	if got := string(secret.Data[injector.KeyName]); got != want {
		t.Error("the gateway has another key than the one that was put there")
	}

	operator, err := client.New(cluster.operator, client.Options{Scheme: testScheme()})
	must(t, err)
	eventually(t, func() error { // the policy takes a moment to be in force
		if operator.Delete(t.Context(), restored.DeepCopy(), client.DryRunAll) == nil {
			return errors.New("the operator may delete what it did not make")
		}
		return nil
	})
	must(t, cluster.admin.Patch(t.Context(), tun, client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"gateway":null}}`))))
	eventually(t, func() error {
		for _, o := range gatewayParts() {
			if err := cluster.admin.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "tenantwire-gateway-main"}, o); !apierrors.IsNotFound(err) {
				return fmt.Errorf("%T is still there: %w", o, err)
			}
		}
		return nil
	})
	must(t, cluster.admin.Get(t.Context(), client.ObjectKeyFromObject(restored), &secret))
}
