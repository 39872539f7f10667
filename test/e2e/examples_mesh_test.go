package e2e

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/test/kit"
)

// meshProxy is in place of what a mesh's injector puts into pods; there is no image of one here.
const meshProxy = "mesh-proxy"

// meshContainers add an init container and a proxy, as Istio and Linkerd do, in the words of a MutatingAdmissionPolicy.
const meshContainers = `(has(object.spec.initContainers) ? [] : [JSONPatch{op: "add", path: "/spec/initContainers", value: []}]) + [
	JSONPatch{op: "add", path: "/spec/initContainers/0", value: Object.spec.initContainers{name: "mesh-init", image: "` + kit.WorkloadImage + `", args: ["exit"],
		securityContext: Object.spec.initContainers.securityContext{allowPrivilegeEscalation: false,
			capabilities: Object.spec.initContainers.securityContext.capabilities{drop: ["ALL"]}}}},
	JSONPatch{op: "add", path: "/spec/containers/-", value: Object.spec.containers{name: "` + meshProxy + `", image: "` + kit.WorkloadImage + `", args: ["sleep"],
		securityContext: Object.spec.containers.securityContext{allowPrivilegeEscalation: false,
			capabilities: Object.spec.containers.securityContext.capabilities{drop: ["ALL"]}}}}]`

// A mesh is simulated: by another injector in the API server, and by rules in the pods' network that take TCP as a mesh's do, to a proxy that
// refuses it all. What the tunnel carries, the probes and the stream to the coordinator do not notice.
func exampleMesh(t *testing.T, e example) {
	kit.NeedNodes(t)
	answersWeb(t, e)
	t.Run("with Istio or Linkerd", func(t *testing.T) { t.Skip("NOT TESTED: there are no images of a mesh here. It is simulated instead") })
	injectMesh(t, e)
	pods := map[string]corev1.Pod{}
	for _, d := range []string{"web", "client"} {
		kit.Change(e.Namespace, d, &appsv1.Deployment{}, restart)
		e.WaitRollout(d)
		p := e.Pods(d)[0]
		pods[d] = p
		if first := p.Spec.InitContainers[0].Name; first != kit.Sidecar || !hasContainer(&p, meshProxy) || len(p.Spec.InitContainers) != 2 {
			t.Errorf("%s: the first of %d init containers is %s; a proxy: %t", p.Name, len(p.Spec.InitContainers), first, hasContainer(&p, meshProxy))
		}
	}
	client, web := pods["client"], pods["web"]
	e.answers("client", "web-")
	for _, p := range pods {
		takeTCP(t, &p)
	}
	if r := e.Exec(client.Name, "client", "get", "-timeout", "2s", "http://"+web.Status.PodIP+":8080"); r.Code == 0 {
		t.Errorf("the control: TCP is not taken: %s", r)
	}
	for range 5 {
		if r := e.Exec(client.Name, "client", "get", "-timeout", "5s", "http://web"); r.Code != 0 || !strings.Contains(r.Stdout, web.Name) {
			t.Errorf("by the tunnel: %s", r)
		}
	}
	for _, p := range pods {
		kit.Eventually(t, kit.Deadline, "the answer to a probe", func() error {
			_, err := cluster.Fetch(t.Context(), e.Namespace.Name, p.Name, 51821, "readyz")
			return err
		})
		e.Read(p.Name, &p)
		if !kit.IsReady(&p) || kit.SidecarStatus(&p).RestartCount > 0 {
			t.Errorf("%s", kit.Describe(&p))
		}
	}
}

func hasContainer(p *corev1.Pod, name string) bool {
	return slices.ContainsFunc(p.Spec.Containers, func(c corev1.Container) bool { return c.Name == name })
}

// injectMesh has the API server put the containers into pods of the example's namespace, before our webhook is asked and again after it if
// need be, as it does for webhooks of meshes.
func injectMesh(t *testing.T, e example) {
	t.Helper()
	name := e.Namespace.Name
	p := &admissionv1.MutatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: admissionv1.MutatingAdmissionPolicySpec{
		FailurePolicy: ptr.To(admissionv1.Fail), ReinvocationPolicy: admissionv1.IfNeededReinvocationPolicy,
		MatchConstraints: &admissionv1.MatchResources{
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: name, "istio-injection": "enabled"}},
			ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
				Operations: []admissionv1.OperationType{admissionv1.Create},
				Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}}}}}},
		MatchConditions: []admissionv1.MatchCondition{{Name: "once", Expression: "!object.spec.containers.exists(c, c.name == '" + meshProxy + "')"}},
		Mutations:       []admissionv1.Mutation{{PatchType: admissionv1.PatchTypeJSONPatch, JSONPatch: &admissionv1.JSONPatch{Expression: meshContainers}}}}}
	b := &admissionv1.MutatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: admissionv1.MutatingAdmissionPolicyBindingSpec{PolicyName: name}}
	for _, o := range []client.Object{p, b} {
		err := cluster.Create(t.Context(), o)
		if meta.IsNoMatchError(err) {
			t.Skipf("NOT TESTED: this cluster has no MutatingAdmissionPolicy to simulate a mesh's injector with: %v", err)
		}
		if err != nil {
			t.Fatalf("create the other injector: %v", err)
		}
		t.Cleanup(func() { _ = cluster.Delete(context.Background(), o) })
	}
	kit.Eventually(t, kit.Deadline, "the other injector", func() error {
		p := kit.Pod("asked")
		if err := e.TryCreate(p, client.DryRunAll); err != nil {
			return err
		}
		if !hasContainer(p, meshProxy) {
			return errorf("the pod has no proxy")
		}
		return nil
	})
}

// takeTCP makes the rules in a pod's network: TCP that leaves it, but for loopback, and TCP that enters it, but for the ports that its
// annotation excludes, goes to a port of the mesh.
func takeTCP(t *testing.T, p *corev1.Pod) {
	t.Helper()
	excluded := p.Annotations["traffic.sidecar.istio.io/excludeInboundPorts"]
	if excluded != p.Annotations["config.linkerd.io/skip-inbound-ports"] || excluded == "" {
		t.Errorf("excluded for Istio %q, for Linkerd %q", excluded, p.Annotations["config.linkerd.io/skip-inbound-ports"])
	}
	rules := fmt.Sprintf(`table ip mesh {
	chain output { type nat hook output priority -100; oifname "lo" return; ip protocol tcp redirect to :15001; }
	chain prerouting { type nat hook prerouting priority -100; tcp dport { %s } return; ip protocol tcp redirect to :15006; }
}`, excluded)
	pid := kit.ContainerPID(t, p.Spec.NodeName, kit.SidecarStatus(p).ContainerID)
	kit.NodeExec(t, p.Spec.NodeName, "nsenter", "-t", strconv.Itoa(pid), "-n", "nft", rules)
}
