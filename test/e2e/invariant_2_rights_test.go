package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/injector"
	"github.com/tenantwire/tenantwire/test/kit"
)

const (
	operatorUser = "system:serviceaccount:" + kit.SystemNamespace + ":" + kit.OperatorName
	servingCert  = "tenantwire-serving-cert"
)

// Breaks when the operator's role grows: a right that reads Secrets, or that leads to one by a detour.
func TestInvariant2OperatorCannotReadTenantsSecrets(t *testing.T) {
	t.Parallel()
	tenant := cluster.Namespace(t)
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "password"}, StringData: map[string]string{"password": "hunter2"}}
	tenant.Create(secret)
	t.Run("access reviews", func(t *testing.T) { operatorMayNot(t, tenant.Name) })
	t.Run("roles", rolesHaveNoWildcards)
	t.Run("requests", func(t *testing.T) { operatorIsRefused(t, tenant) })
}

// may asks the API server what it would say to the operator.
func may(t *testing.T, a authorizationv1.ResourceAttributes) bool {
	t.Helper()
	r := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{User: operatorUser, ResourceAttributes: &a,
		Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + kit.SystemNamespace, "system:authenticated"}}}
	if err := cluster.Create(t.Context(), r); err != nil {
		t.Fatalf("review %+v: %v", a, err)
	}
	return r.Status.Allowed
}

func operatorMayNot(t *testing.T, tenant string) {
	var denied []authorizationv1.ResourceAttributes
	deny := func(verbs []string, group, resource, subresource string, namespaces ...string) {
		for _, v := range verbs {
			for _, ns := range namespaces {
				denied = append(denied, authorizationv1.ResourceAttributes{Verb: v, Group: group, Resource: resource, Subresource: subresource, Namespace: ns})
			}
		}
	}
	const everywhere = ""
	// It may make a gateway's key, and delete it: see operatorIsRefused.
	deny([]string{"get", "list", "watch", "update", "patch", "deletecollection", "*"}, "", "secrets", "", tenant, "default", "kube-system", everywhere, kit.SystemNamespace)
	for _, name := range []string{"password", "tenantwire-serving-cert-2"} {
		denied = append(denied, authorizationv1.ResourceAttributes{Verb: "get", Resource: "secrets", Name: name, Namespace: kit.SystemNamespace})
	}
	for _, ns := range []string{tenant, "default", "kube-system", everywhere} { // the one name it has means nothing elsewhere
		denied = append(denied, authorizationv1.ResourceAttributes{Verb: "get", Resource: "secrets", Name: servingCert, Namespace: ns})
	}
	// Detours: run something that mounts a Secret, look into what runs, get another's token or rights.
	writes := []string{"create", "update", "patch", "*"}
	for _, sub := range []string{"", "exec", "attach", "portforward", "proxy", "ephemeralcontainers", "binding", "eviction"} {
		deny(writes, "", "pods", sub, tenant, kit.SystemNamespace, everywhere)
	}
	for _, sub := range []string{"exec", "attach", "portforward", "proxy", "log"} {
		deny([]string{"get"}, "", "pods", sub, tenant, kit.SystemNamespace, everywhere)
	}
	for _, r := range []string{"statefulsets", "daemonsets", "replicasets"} { // of Deployments, see operatorIsRefused
		deny(writes, "apps", r, "", tenant, kit.SystemNamespace)
	}
	deny(writes, "batch", "jobs", "", tenant, kit.SystemNamespace)
	deny([]string{"create"}, "", "serviceaccounts", "token", tenant, kit.SystemNamespace, "kube-system")
	deny([]string{"impersonate"}, "", "users", "", everywhere)
	deny([]string{"impersonate"}, "", "groups", "", everywhere)
	deny([]string{"impersonate"}, "", "serviceaccounts", "", tenant, everywhere)
	deny([]string{"bind", "escalate", "update", "*"}, "rbac.authorization.k8s.io", "roles", "", tenant, kit.SystemNamespace)
	deny([]string{"bind", "escalate", "create", "update", "patch"}, "rbac.authorization.k8s.io", "clusterroles", "", everywhere)
	deny([]string{"update", "*"}, "rbac.authorization.k8s.io", "rolebindings", "", tenant, kit.SystemNamespace)
	deny(writes, "rbac.authorization.k8s.io", "clusterrolebindings", "", everywhere)
	deny([]string{"get", "create", "*"}, "", "nodes", "proxy", everywhere)
	deny([]string{"approve", "sign"}, "certificates.k8s.io", "signers", "", everywhere)
	deny(writes, "certificates.k8s.io", "certificatesigningrequests", "", everywhere)
	deny(writes, "admissionregistration.k8s.io", "mutatingwebhookconfigurations", "", everywhere)
	deny(writes, "admissionregistration.k8s.io", "validatingwebhookconfigurations", "", everywhere)
	deny(writes, "apiextensions.k8s.io", "customresourcedefinitions", "", everywhere)
	deny(writes, "apiregistration.k8s.io", "apiservices", "", everywhere)
	deny([]string{"update", "patch", "delete"}, "", "namespaces", "", tenant)
	deny([]string{"get", "list", "watch", "update", "patch"}, "", "configmaps", "", tenant, kit.SystemNamespace, everywhere)
	deny([]string{"*"}, "*", "*", "", everywhere)
	for _, a := range denied {
		if may(t, a) {
			t.Errorf("the operator may %s %s/%s/%s %q in %q", a.Verb, a.Group, a.Resource, a.Subresource, a.Name, a.Namespace)
		}
	}
	for _, a := range []authorizationv1.ResourceAttributes{ // the controls
		{Verb: "get", Resource: "secrets", Name: servingCert, Namespace: kit.SystemNamespace},
		{Verb: "list", Resource: "pods", Namespace: tenant},
	} {
		if !may(t, a) {
			t.Errorf("the operator may not %s %s %s in %s: the test shows nothing", a.Verb, a.Resource, a.Name, a.Namespace)
		}
	}
}

// rolesHaveNoWildcards reads every rule that is bound to the operator, by whatever way.
func rolesHaveNoWildcards(t *testing.T) {
	var rules []rbacv1.PolicyRule
	bound := func(subjects []rbacv1.Subject) bool {
		return slices.ContainsFunc(subjects, func(s rbacv1.Subject) bool {
			return s.Kind == "ServiceAccount" && s.Namespace == kit.SystemNamespace && s.Name == kit.OperatorName || s.Kind == "Group" && strings.HasPrefix(s.Name, "system:serviceaccounts")
		})
	}
	add := func(namespace string, ref rbacv1.RoleRef) {
		if ref.Name == "system:service-account-issuer-discovery" { // every cluster's, for every service account
			return
		}
		if ref.Kind == "ClusterRole" {
			var r rbacv1.ClusterRole
			if err := cluster.Get(t.Context(), types.NamespacedName{Name: ref.Name}, &r); err != nil {
				t.Fatal(err)
			}
			rules = append(rules, r.Rules...)
			return
		}
		var r rbacv1.Role
		if err := cluster.Get(t.Context(), types.NamespacedName{Namespace: namespace, Name: ref.Name}, &r); err != nil {
			t.Fatal(err)
		}
		rules = append(rules, r.Rules...)
	}
	var crb rbacv1.ClusterRoleBindingList
	var rb rbacv1.RoleBindingList
	for _, l := range []client.ObjectList{&crb, &rb} {
		if err := cluster.List(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
	for _, b := range crb.Items {
		if bound(b.Subjects) {
			add("", b.RoleRef)
		}
	}
	for _, b := range rb.Items {
		if bound(b.Subjects) {
			add(b.Namespace, b.RoleRef)
		}
	}
	if len(rules) < 5 {
		t.Fatalf("only %d rules are bound to the operator: the test shows nothing", len(rules))
	}
	for _, r := range rules {
		if slices.Contains(r.Verbs, "*") || slices.Contains(r.Resources, "*") || slices.Contains(r.APIGroups, "*") || len(r.NonResourceURLs) > 0 {
			t.Errorf("a wildcard or URL in %+v", r)
		}
		for _, v := range []string{"escalate", "bind", "impersonate", "approve", "sign"} {
			if slices.Contains(r.Verbs, v) {
				t.Errorf("the verb %s in %+v", v, r)
			}
		}
		if slices.Contains(r.Resources, "secrets") && !slices.Equal(r.ResourceNames, []string{servingCert}) && !slices.Equal(r.Verbs, []string{"create", "delete"}) {
			t.Errorf("Secrets other than %s in %+v", servingCert, r)
		}
	}
}

// operatorIsRefused makes real requests, as the operator's pods do.
func operatorIsRefused(t *testing.T, tenant *kit.Namespace) {
	r, err := cluster.Kube.CoreV1().ServiceAccounts(kit.SystemNamespace).CreateToken(t.Context(), kit.OperatorName, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	operator, err := cluster.As(func(c *rest.Config) {
		c.BearerToken = r.Status.Token
		c.CertData, c.KeyData, c.CertFile, c.KeyFile = nil, nil, "", ""
	})
	if err != nil {
		t.Fatal(err)
	}
	secrets := func(ns string) secretsOf { return secretsOf{operator, ns} }
	for _, ns := range []string{tenant.Name, "default", "kube-system"} {
		secrets(ns).forbidden(t, "password")
		secrets(ns).forbidden(t, servingCert)
	}
	secrets(kit.SystemNamespace).forbidden(t, "password")
	secrets("").forbidden(t, "")
	pod := kit.Pod("thief")
	pod.Namespace = tenant.Name
	pod.Spec.Volumes = []corev1.Volume{{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "password"}}}}
	if err := operator.Create(t.Context(), pod); !apierrors.IsForbidden(err) {
		t.Errorf("the operator creates a pod that mounts a Secret: %v, want it forbidden", err)
	}
	for _, name := range []string{"thief", "tenantwire-gateway-thief"} { // what the policy for gateways leaves of its right to make Deployments
		d := kit.Deployment(name, 1)
		d.Namespace, d.Spec.Template.Spec = tenant.Name, pod.Spec
		if err := operator.Create(t.Context(), d); !apierrors.IsForbidden(err) && !apierrors.IsInvalid(err) {
			t.Errorf("the operator creates a Deployment %s that mounts a Secret: %v, want it refused", name, err)
		}
	}
	for ns, name := range map[string]string{tenant.Name: "password", kit.SystemNamespace: servingCert} {
		if err := operator.Kube.CoreV1().Secrets(ns).Delete(t.Context(), name, metav1.DeleteOptions{}); !apierrors.IsForbidden(err) && !apierrors.IsInvalid(err) {
			t.Errorf("the operator deletes Secret %s/%s: %v, want it refused", ns, name, err)
		}
		made := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "made"}}
		if _, err := operator.Kube.CoreV1().Secrets(ns).Create(t.Context(), made, metav1.CreateOptions{}); !apierrors.IsForbidden(err) && !apierrors.IsInvalid(err) {
			t.Errorf("the operator creates a Secret in %s that is no gateway's: %v, want it refused", ns, err)
		}
	}
	if _, err := operator.Kube.CoreV1().Secrets(kit.SystemNamespace).Get(t.Context(), servingCert, metav1.GetOptions{}); err != nil { // the control
		t.Errorf("the operator reads its own certificate: %v: the test shows nothing", err)
	}
}

type secretsOf struct {
	*kit.Cluster
	namespace string
}

// forbidden tries to get one, to list and to watch all.
func (s secretsOf) forbidden(t *testing.T, name string) {
	t.Helper()
	api := s.Kube.CoreV1().Secrets(s.namespace)
	if name != "" {
		if _, err := api.Get(t.Context(), name, metav1.GetOptions{}); !apierrors.IsForbidden(err) {
			t.Errorf("the operator gets Secret %s/%s: %v, want it forbidden", s.namespace, name, err)
		}
	}
	if _, err := api.List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("the operator lists Secrets of %q: %v, want it forbidden", s.namespace, err)
	}
	w, err := api.Watch(t.Context(), metav1.ListOptions{})
	if !apierrors.IsForbidden(err) {
		t.Errorf("the operator watches Secrets of %q: %v, want it forbidden", s.namespace, err)
	}
	if err == nil {
		w.Stop()
	}
}

// Breaks when a member gets something of Kubernetes by its sidecar: a token that the API server takes, or the pod's own token in the
// sidecar's files. The pod's own containers keep what they had.
func TestInvariant2MembersHaveNoKubernetesPermissions(t *testing.T) {
	t.Parallel()
	kit.NeedNodes(t)
	n := cluster.Namespace(t)
	n.Tunnel("main")
	n.Create(kit.Pod("member"))
	p := n.WaitReady("member")[0]
	i := slices.IndexFunc(p.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == kit.Sidecar })
	if i < 0 {
		t.Fatal("the pod has no sidecar")
	}
	var mounts []string
	for _, m := range p.Spec.InitContainers[i].VolumeMounts {
		mounts = append(mounts, m.Name)
	}
	slices.Sort(mounts)
	if want := []string{injector.IdentityVolume, injector.StateVolume}; !slices.Equal(mounts, want) {
		t.Errorf("the sidecar mounts %v, want %v: the pod's own token is not its business", mounts, want)
	}
	for _, c := range p.Spec.Containers {
		for _, m := range c.VolumeMounts {
			if strings.HasPrefix(m.Name, injector.VolumePrefix) {
				t.Errorf("container %s mounts the sidecar's %s", c.Name, m.Name)
			}
		}
	}
	token := strings.TrimSpace(invSidecarFile(t, &p, "/var/run/tenantwire/token"))
	own := strings.TrimSpace(kit.NodeExec(t, p.Spec.NodeName, "cat", fmt.Sprintf("/proc/%d/root/var/run/secrets/kubernetes.io/serviceaccount/token", invPID(t, &p, kit.AppContainer))))
	for name, c := range map[string]struct {
		token string
		want  int
	}{"the sidecar's token": {token, http.StatusUnauthorized}, "the application's token (the control)": {own, http.StatusOK}} {
		api, err := rest.HTTPClientFor(&rest.Config{Host: cluster.Config.Host, BearerToken: c.token, TLSClientConfig: rest.TLSClientConfig{CAData: cluster.Config.CAData, CAFile: cluster.Config.CAFile}})
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{"/api", "/apis"} {
			res, err := api.Get(cluster.Config.Host + path)
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
			if res.StatusCode != c.want {
				t.Errorf("%s on %s: %s, want %d", name, path, res.Status, c.want)
			}
		}
	}
}

// Breaks when tenants may write what the operator trusts: TunnelMembers and the statuses.
func TestInvariant2TenantsCannotWriteMembers(t *testing.T) {
	t.Parallel()
	n := cluster.Namespace(t)
	for _, role := range []string{"admin", "edit", "view"} {
		user := "tenant-" + role
		n.Create(&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: role}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: user}}})
		asked := func(verb, resource, subresource string) bool {
			r := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{User: user, ResourceAttributes: &authorizationv1.ResourceAttributes{
				Verb: verb, Group: "tenantwire.dev", Resource: resource, Subresource: subresource, Namespace: n.Name}}}
			if err := cluster.Create(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			return r.Status.Allowed
		}
		for _, verb := range []string{"create", "update", "patch", "delete", "deletecollection"} {
			if asked(verb, "tunnelmembers", "") || asked(verb, "tunnelmembers", "status") || asked(verb, "tenanttunnels", "status") || asked(verb, "tunnelpeers", "status") {
				t.Errorf("a tenant with role %s may %s members or statuses", role, verb)
			}
		}
		kit.Eventually(t, kit.Deadline, "right of "+user+" to see members", func() error { // the control
			if !asked("get", "tunnelmembers", "") || (role != "view") != asked("create", "tenanttunnels", "") {
				return errorf("not yet: the roles are aggregated by a controller")
			}
			return nil
		})
	}
}
