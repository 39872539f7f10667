package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tenantwire/tenantwire/cli"
	"github.com/tenantwire/tenantwire/cli/doctor"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
	"github.com/tenantwire/tenantwire/test/kit"
)

// examined is what doctor finds in a namespace; other tests may do to the installation what they do.
func examined(n *kit.Namespace, args ...string) (checks []string, text string, err error) {
	var out, said bytes.Buffer
	code := cli.Run(n.T.Context(), "test", append([]string{"-n", n.Name, "doctor", "-o", "json"}, args...), cli.Streams{In: strings.NewReader(""), Out: &out, Err: &said})
	var r doctor.Report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		return nil, "", errorf("code %d: %s%s", code, out.String(), said.String())
	}
	for _, f := range r.Findings {
		if strings.Contains(f.Object, n.Name) {
			checks = append(checks, f.Check)
			text += fmt.Sprintf("%+v\n", f)
		}
	}
	if healthy := code == cli.ExitOK; healthy != r.Healthy || code == cli.ExitFailed || len(r.NotLooked) > 0 {
		return nil, "", errorf("code %d, healthy %t, not looked at: %+v\n%s", code, r.Healthy, r.NotLooked, said.String())
	}
	return checks, text, nil
}

// finds waits until doctor finds exactly what is wanted, each where it has to be; "" is nothing, and "A|B" one of two.
func finds(n *kit.Namespace, wanted string, args ...string) {
	n.T.Helper()
	start := time.Now()
	kit.Eventually(n.T, kit.Deadline, "doctor "+strings.Join(args, " ")+" finds "+wanted, func() error {
		checks, text, err := examined(n, args...)
		slices.Sort(checks)
		one := func(check, wanted string) bool { return slices.Contains(strings.Split(wanted, "|"), check) }
		if err != nil || !slices.EqualFunc(slices.Compact(checks), strings.Fields(wanted), one) {
			return errorf("it finds %v (%w)\n%s", checks, err, text)
		}
		return nil
	})
	n.T.Logf("doctor %v finds %q after %s", args, wanted, time.Since(start).Round(100*time.Millisecond))
}

// drop has a pod's network drop datagrams until undo is called.
func drop(t *testing.T, p *corev1.Pod, match string) (undo func()) {
	t.Helper()
	pid := strconv.Itoa(kit.ContainerPID(t, p.Spec.NodeName, kit.SidecarStatus(p).ContainerID))
	nft := func(rules string) { kit.NodeExec(t, p.Spec.NodeName, "nsenter", "-t", pid, "-n", "nft", rules) }
	nft("table inet fault { chain input { type filter hook input priority -300; " + match + " drop; }; }")
	return func() { nft("delete table inet fault") }
}

// Of a healthy tunnel doctor finds nothing. Then faults are planted, one after another, and each is named.
func TestDoctor(t *testing.T) {
	t.Parallel()
	kit.NeedNodes(t)
	n := cluster.Namespace(t)
	n.Tunnel("main", kit.Exposing("web", "dead"), withIPv4("10.77.0.0/24"), func(s *v1alpha1.TenantTunnelSpec) {
		s.Gateway = &v1alpha1.Gateway{Replicas: 1}
		s.Proxies = []v1alpha1.Proxy{{Protocol: v1alpha1.SOCKS5, Port: 1080}}
	})
	server := web(n, 1)[0]
	dead := kit.Service("dead", "80:9999")
	dead.Spec.Selector = map[string]string{"app": "web"}
	client := kit.Pod("client", "serve", "http=:8081")
	n.Create(dead, client)
	n.WaitReady("client")
	n.Ask("client", "http://web")
	activeGateway(n, "")
	way := func(to string) []string { return []string{"--from", "client", "--to", to} }

	finds(n, "", way("web:80")...)
	finds(n, "NotListening", way("dead")...)
	finds(n, "PortNotDeclared", way(server.Name+":1234")...)
	finds(n, "NameUnknown", way("nosuch")...)
	finds(n, "PortNotCarried", way("web:81")...)

	t.Run("path", func(t *testing.T) { doctorOfPaths(t, n, &server, way) })
	t.Run("objects", func(t *testing.T) { doctorOfObjects(t, n, way) })
}

// largeLost is what is said of large packets that get lost: it depends on whether the sidecar has found that out already.
const largeLost = "MTUBlackHole|PathNarrow"

// doctorOfPaths plants faults on the way between the two pods.
func doctorOfPaths(t *testing.T, n *kit.Namespace, server *corev1.Pod, way func(string) []string) {
	n = &kit.Namespace{Cluster: n.Cluster, T: t, Name: n.Name}
	var client corev1.Pod
	n.Read("client", &client)
	n.Read(server.Name, server)
	for wanted, fault := range map[string]struct {
		at    *corev1.Pod
		match string
	}{
		"UDPBlocked":     {server, "udp dport 51820"},
		"AnswersBlocked": {&client, "udp dport 51820"},
		largeLost:        {server, "udp dport 51820 udp length > 1300"},
	} {
		if wanted == largeLost && n.Member("client").Status.Datapath != v1alpha1.DatapathNetstack {
			continue // echoes through a kernel's interface take a right that a pod may not have
		}
		undo := drop(t, fault.at, fault.match)
		finds(n, wanted, way("web")...)
		undo()
	}
	finds(n, "", way("web")...)
}

// doctorOfObjects plants faults in what the API server has.
func doctorOfObjects(t *testing.T, n *kit.Namespace, way func(string) []string) {
	n = &kit.Namespace{Cluster: n.Cluster, T: t, Name: n.Name}
	late := kit.Service("late", "82:8080")
	late.Spec.Selector = map[string]string{"app": "web"}
	n.Create(late)
	kit.Change(n, "main", &v1alpha1.TenantTunnel{}, func(o *v1alpha1.TenantTunnel) {
		o.Spec.Expose = append(o.Spec.Expose, v1alpha1.ExposedService{Service: "late"})
	})
	finds(n, "NameNotCarried", way("late")...)
	kit.Change(n, "main", &v1alpha1.TenantTunnel{}, func(o *v1alpha1.TenantTunnel) { o.Spec.Expose = o.Spec.Expose[:2] })

	deny := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "deny"}, Spec: networkingv1.NetworkPolicySpec{PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "client"}}}}
	n.Create(deny)
	finds(n, "PolicyBlocksTunnel")
	n.Remove(deny)

	n.Create(&v1alpha1.TunnelPeer{ObjectMeta: metav1.ObjectMeta{Name: "laptop"}, Spec: v1alpha1.TunnelPeerSpec{Tunnel: "main", PublicKey: key.NewPrivate().Public().String()}})
	finds(n, "PeerNeverConnected", "--from", "laptop", "--to", "web")
	kit.Change(n, "main", &v1alpha1.TenantTunnel{}, func(o *v1alpha1.TenantTunnel) {
		o.Spec.Policy = &v1alpha1.Policy{Inbound: []v1alpha1.InboundRule{{Peers: v1alpha1.PeerSelector{}, Services: []string{"dead"}}}}
	})
	finds(n, "PeerNeverConnected PolicyRefuses", "--from", "laptop", "--to", "web")
	kit.Change(n, "laptop", &v1alpha1.TunnelPeer{}, func(o *v1alpha1.TunnelPeer) { o.Spec.ExpiresAt = &metav1.Time{Time: time.Now().Add(-time.Minute)} })
	finds(n, "PeerExpired")
	n.Remove(&v1alpha1.TunnelPeer{ObjectMeta: metav1.ObjectMeta{Name: "laptop"}})

	n.Label(map[string]string{v1alpha1.LabelInject: ""})
	finds(n, "NamespaceNotOptedIn")
	kit.Eventually(t, kit.Deadline, "a pod without a sidecar", func() error {
		p := kit.Pod("old")
		if err := n.TryCreate(p); err != nil {
			return err
		}
		if kit.IsInjected(p) {
			n.Remove(p)
			n.WaitGone(p)
			return errorf("the API server has not seen the label go")
		}
		return nil
	})
	n.Label(map[string]string{v1alpha1.LabelInject: v1alpha1.InjectEnabled})
	finds(n, "PodNotInjected")
}
