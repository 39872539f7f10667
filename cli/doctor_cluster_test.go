package cli

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/cli/doctor"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

const system = "tenantwire-system"

// ward is an installation from the manifests, whose operator the test plays, and a namespace with a tunnel and two members.
type ward struct {
	*bench
	ca []byte
}

func (w *ward) create(objects ...client.Object) {
	w.Helper()
	for _, o := range objects {
		status := o.DeepCopyObject().(client.Object)
		must(w.T, cluster.admin.Create(w.Context(), o))
		status.SetResourceVersion(o.GetResourceVersion())
		status.SetUID(o.GetUID())
		status.SetNamespace(o.GetNamespace())
		if err := cluster.admin.Status().Update(w.Context(), status); !apierrors.IsNotFound(err) { // kinds without a status
			must(w.T, err)
		}
	}
}

func newWard(t *testing.T) *ward {
	w := &ward{bench: newBench(t)}
	for _, name := range []string{"00-namespace", "30-operator", "40-webhook"} {
		w.apply(filepath.Join("..", "manifests", "operator", name+".yaml"))
	}
	leaf, ca := serving(t, time.Now().Add(-time.Hour), time.Now().Add(9000*time.Hour), true)
	w.ca = ca
	w.create(&corev1.Secret{ObjectMeta: w.in(system, "tenantwire-serving-cert"), Data: map[string][]byte{"tls.crt": leaf, "ca.crt": ca, "tls.key": []byte("SECRET")}})
	change(w, system, "tenantwire-operator", &appsv1.Deployment{}, true, func(d *appsv1.Deployment) {
		d.Status = appsv1.DeploymentStatus{ObservedGeneration: d.Generation, Replicas: 2, AvailableReplicas: 2, ReadyReplicas: 2, UpdatedReplicas: 2}
	})
	change(w, "", "tenantwire", &admissionv1.MutatingWebhookConfiguration{}, false, func(c *admissionv1.MutatingWebhookConfiguration) { c.Webhooks[0].ClientConfig.CABundle = ca })
	w.create(w.slice(system, "tenantwire-webhook", "a"), w.slice(system, "tenantwire-coordinator", "a"))
	w.tenancy()
	t.Cleanup(func() {
		for _, o := range []client.Object{&admissionv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "tenantwire"}}, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1"}}} {
			must(t, client.IgnoreNotFound(cluster.admin.Delete(context.Background(), o)))
		}
	})
	return w
}

func (w *ward) in(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name}
}

func (w *ward) apply(path string) {
	w.Helper()
	b, err := os.ReadFile(path)
	must(w.T, err)
	for d := yaml.NewYAMLOrJSONDecoder(bufio.NewReader(bytes.NewReader(b)), 4096); ; {
		var u unstructured.Unstructured
		if err := d.Decode(&u.Object); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			w.Fatal(err)
		}
		if len(u.Object) > 0 {
			must(w.T, cluster.admin.Create(w.Context(), &u))
		}
	}
}

func (w *ward) slice(namespace, service string, pods ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{ObjectMeta: w.in(namespace, service+"-1"), AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: ptr.To(""), Port: ptr.To[int32](8080)}}}
	s.Labels = map[string]string{discoveryv1.LabelServiceName: service}
	for _, p := range pods {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{"10.0.0.2"}, TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: p, Namespace: namespace}})
	}
	return s
}

// tenancy makes pods as the webhook leaves them before the namespace is opted in: nobody is there to ask.
func (w *ward) tenancy() {
	w.Helper()
	t := &v1alpha1.TenantTunnel{ObjectMeta: w.in(w.namespace, "net"), Spec: v1alpha1.TenantTunnelSpec{Expose: []v1alpha1.ExposedService{{Service: "web"}}, Addressing: v1alpha1.Addressing{IPv4Pool: "10.77.0.0/24"},
		Egress: []v1alpha1.EgressHost{{Host: "db.corp.internal", Address: "192.168.10.5", Ports: []v1alpha1.Port{{Port: 5432}}}}, Gateway: &v1alpha1.Gateway{}}}
	t.Status.Conditions = []metav1.Condition{w.condition("Accepted", "Accepted"), w.condition("Ready", "AllMembersReady")}
	t.Status.Gateway = &v1alpha1.GatewayStatus{Active: "gw"}
	w.create(t, &corev1.Service{ObjectMeta: w.in(w.namespace, "web"), Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80}}}}, w.slice(w.namespace, "web", "web"))
	w.create(&corev1.ConfigMap{ObjectMeta: w.in(w.namespace, "tenantwire-ca"), Data: map[string]string{"ca.crt": string(w.ca)}})
	w.create(&corev1.ServiceAccount{ObjectMeta: w.in(w.namespace, "default")})
	for i, name := range []string{"web", "client"} {
		p := w.pod(name)
		p.Labels["tenantwire.dev/tunnel"] = "net"
		p.Spec.InitContainers = []corev1.Container{{Name: "tenantwire", Image: "ghcr.io/tenantwire/sidecar:dev", RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways), Args: []string{"--name=web=127.77.0.1", "--name=db.corp.internal=127.77.0.2"}}}
		w.create(p)
		m := &v1alpha1.TunnelMember{ObjectMeta: w.in(w.namespace, name), Spec: v1alpha1.TunnelMemberSpec{Tunnel: "net", PodUID: string(p.UID), Addresses: []string{[]string{"10.77.0.2", "10.77.0.3"}[i]}},
			Status: v1alpha1.TunnelMemberStatus{PublicKey: key.Public{31: byte(i + 1)}.String(), Endpoint: "10.0.0.2:51820", Datapath: v1alpha1.DatapathNetstack, Conditions: []metav1.Condition{w.condition("Ready", "DataPathUp")}}}
		w.create(m)
	}
	w.create(w.peer("site", 10, func(p *v1alpha1.TunnelPeer) { p.Spec.Routes = []string{"192.168.10.0/24"} }), w.peer("laptop", 11, func(p *v1alpha1.TunnelPeer) { p.Spec.Addresses = []string{"10.77.0.7"} }))
	change(w, "", w.namespace, &corev1.Namespace{}, false, func(n *corev1.Namespace) { n.Labels[v1alpha1.LabelInject] = v1alpha1.InjectEnabled })
}

func (w *ward) condition(kind, reason string) metav1.Condition {
	c := condition(kind, metav1.ConditionTrue, reason, "")
	c.ObservedGeneration = 1
	return c
}

func (w *ward) pod(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name, Labels: map[string]string{"app": name}}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app"}}}}
}

func (w *ward) peer(name string, n byte, more func(*v1alpha1.TunnelPeer)) *v1alpha1.TunnelPeer {
	p := &v1alpha1.TunnelPeer{ObjectMeta: w.in(w.namespace, name), Spec: v1alpha1.TunnelPeerSpec{Tunnel: "net", PublicKey: key.Public{31: n}.String()}}
	p.Status.Conditions = []metav1.Condition{w.condition("Accepted", "Accepted"), w.condition("Connected", "Handshake")}
	more(p)
	return p
}

// serving makes a serving certificate, as the operator has it, or one for others.
func serving(t *testing.T, from, to time.Time, ours bool) (leaf, ca []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	root := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: from, NotAfter: to, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	c := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: from, NotAfter: to}
	if ours {
		c.DNSNames = []string{"tenantwire-webhook." + system + ".svc", "tenantwire-coordinator." + system + ".svc"}
	}
	var out [2][]byte
	for i, one := range []*x509.Certificate{c, root} {
		der, err := x509.CreateCertificate(rand.Reader, one, root, k.Public(), k)
		must(t, err)
		out[i] = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	return out[0], out[1]
}

// change changes an object, or its status, and returns what changes it back.
func change[O client.Object](w *ward, namespace, name string, o O, status bool, with func(O)) (undo func()) {
	w.Helper()
	must(w.T, cluster.admin.Get(w.Context(), client.ObjectKey{Namespace: namespace, Name: name}, o))
	before := o.DeepCopyObject().(O)
	write := func(o O) {
		w.Helper()
		if status {
			must(w.T, cluster.admin.Status().Update(w.Context(), o))
			return
		}
		must(w.T, cluster.admin.Update(w.Context(), o))
	}
	with(o)
	write(o)
	return func() {
		w.Helper()
		must(w.T, cluster.admin.Get(w.Context(), client.ObjectKey{Namespace: namespace, Name: name}, o))
		before.SetResourceVersion(o.GetResourceVersion())
		write(before)
	}
}

// adds makes objects, and returns what deletes them again.
func (w *ward) adds(objects ...client.Object) (undo func()) {
	w.Helper()
	w.create(objects...)
	return func() { w.deletes(objects...) }
}

func (w *ward) deletes(objects ...client.Object) {
	w.Helper()
	for _, o := range objects {
		must(w.T, cluster.admin.Delete(w.Context(), o, client.GracePeriodSeconds(0)))
	}
}

// removes deletes one, and returns what makes it again.
func removes[O client.Object](w *ward, namespace, name string, o O) (undo func()) {
	w.Helper()
	must(w.T, cluster.admin.Get(w.Context(), client.ObjectKey{Namespace: namespace, Name: name}, o))
	again := o.DeepCopyObject().(client.Object)
	w.deletes(o)
	return func() {
		again.SetResourceVersion("")
		again.SetUID("")
		w.create(again)
	}
}

// finds says what doctor finds, by somebody with all rights.
func (w *ward) finds() (names []string, text string) {
	w.Helper()
	var out, said bytes.Buffer
	code := Run(w.Context(), "test", []string{"doctor", "--kubeconfig", cluster.adminsOwn, "-n", w.namespace, "--live=false", "-o", "json"}, Streams{In: strings.NewReader(""), Out: &out, Err: &said})
	var r doctor.Report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		w.Fatalf("code %d: %s%s", code, out.String(), said.String())
	}
	for _, f := range r.Findings {
		names = append(names, f.Check)
	}
	if want := map[bool]int{true: ExitOK, false: ExitUnhealthy}[r.Healthy]; code != want || strings.Contains(out.String(), "SECRET") || len(r.NotLooked) != 1 {
		w.Errorf("code %d, healthy %t, not looked at %+v", code, r.Healthy, r.NotLooked)
	}
	return names, out.String()
}

// Faults that are planted on a real API server: each is named, and nothing is found any more when it is gone.
func TestDoctorOfCluster(t *testing.T) {
	w := newWard(t)
	if names, text := w.finds(); len(names) > 0 {
		t.Fatalf("healthy, and it finds %v\n%s", names, text)
	}
	for _, plant := range clusterPlants {
		undo := plant.plant(w)
		if names, text := w.finds(); !slices.Contains(names, plant.check) || len(slices.Compact(names)) > 4 {
			t.Errorf("%s: it finds %v\n%s", plant.check, names, text)
		}
		undo()
	}
	if names, text := w.finds(); len(names) > 0 {
		t.Errorf("all is healed, and it finds %v\n%s", names, text)
	}
}

// A tenant is told what it may not read, and all else.
func TestDoctorOfTenant(t *testing.T) {
	b := newBench(t)
	b.tunnel("net", v1alpha1.GatewayClusterIP)
	b.judged("net", metav1.ConditionTrue, "AllMembersReady")
	code, out, errOut := b.run(t.Context(), "", "doctor")
	for _, want := range []string{"Not looked at:\n", "- list pods: you have not the right to list pods (", "- get mutatingwebhookconfigurations: ", " checks made: "} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if code == ExitFailed || strings.Contains(errOut, "error") {
		t.Errorf("code %d: %s", code, errOut)
	}
	for want, args := range map[string][]string{
		"both": {"--from", "a"}, "inside one namespace": {"--from", "a", "--to", "b", "-A"}, "not json": {"-o", "table"}, "leave out": {"--from", "a", "--to", "b", "--live=false"}, "unexpected argument": {"x"},
		"has no member and no TunnelPeer nosuch": {"--from", "nosuch", "--to", "web"},
	} {
		if code, _, errOut := b.run(t.Context(), "", append([]string{"doctor"}, args...)...); code != ExitFailed || !strings.Contains(errOut, want) {
			t.Errorf("%v: %d %q", args, code, errOut)
		}
	}
	var said bytes.Buffer
	args := []string{"doctor", "--kubeconfig", cluster.adminsOwn, "--as", "nobody", "-A"}
	if code := Run(t.Context(), "test", args, Streams{In: strings.NewReader(""), Out: io.Discard, Err: &said}); code != ExitFailed || !strings.Contains(said.String(), "you may not list tunnels here") {
		t.Errorf("without any right: %d %q", code, said.String())
	}
	if _, out, _ := b.run(t.Context(), "", "__complete", "doctor", "--to", ""); !strings.Contains(out, ":4\n") {
		t.Errorf("completes %q", out)
	}
}
