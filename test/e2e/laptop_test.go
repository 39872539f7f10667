package e2e

import (
	"bytes"
	"os"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tenantwire/tenantwire/cli"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
	"github.com/tenantwire/tenantwire/test/kit"
)

// kubectlTenantwire runs kubectl tenantwire in the namespace.
func kubectlTenantwire(n *kit.Namespace, args ...string) (stdout string) {
	n.T.Helper()
	var out, said bytes.Buffer
	if code := cli.Run(n.T.Context(), "test", append([]string{"-n", n.Name}, args...), cli.Streams{In: strings.NewReader(""), Out: &out, Err: &said}); code != 0 {
		n.T.Fatalf("kubectl tenantwire %v exits with %d: %s", args, code, said.String())
	}
	return out.String()
}

// A laptop with nothing but stock WireGuard joins by a file of kubectl tenantwire, preshared key and all: it finds an exposed Service by its
// name, reaches what is exposed, by the Service's own port and on the pods themselves, and nothing else, and members reach it. Once it is
// removed it is out.
func TestLaptop(t *testing.T) {
	t.Parallel()
	laptop := kit.NewLaptop(t)
	n := cluster.Namespace(t)
	const chosen = "10.77.0.50"
	n.Tunnel("main", kit.Exposing("web"), withIPv4("10.77.0.0/24"), func(s *v1alpha1.TenantTunnelSpec) {
		s.Gateway = &v1alpha1.Gateway{Replicas: 1, Service: v1alpha1.GatewayService{Type: v1alpha1.GatewayNodePort}}
		s.Egress = []v1alpha1.EgressHost{{Host: "laptop.internal", Address: chosen, Ports: []v1alpha1.Port{{Port: 8080}}}}
	})
	web := kit.Deployment("web", 1, "serve", "http=:8082", "udp-echo=:5353")
	kit.Declare(&web.Spec.Template.Spec, "8082", "5353/UDP")
	n.Create(kit.Service("web", "80:8082"), web)
	server := n.WaitRollout("web")[0]
	client := kit.Pod("client", "serve", "http=:8081")
	kit.Declare(&client.Spec, "8081")
	n.Create(client)
	n.WaitReady("client")
	activeGateway(n, "")

	kubectlTenantwire(n, "peer", "add", "laptop", "--preshared-key", "--address", chosen, "--file", laptop.Config())
	if info, err := os.Stat(laptop.Config()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file's mode: %v, %v", info, err)
	}
	laptop.Up()
	laptop.Start("workload", "serve", "http=:8080")

	var names v1alpha1.TenantTunnel
	n.Read("main", &names)
	service := serviceAddress(n, "web")
	kit.Eventually(t, 2*kit.Deadline, "the Service's name", func() error { // a kubelet shows a Secret within a minute or two
		r := laptop.Run("workload", "lookup", "-server", names.Status.Gateway.Addresses[0]+":53", "web.main.tunnel.")
		if !strings.Contains(r.Stdout, service) {
			return errorf("%s", r)
		}
		return nil
	})
	if r := laptop.Run("workload", "get", "-timeout", "3s", "http://"+service); r.Code != 0 || !strings.Contains(r.Stdout, server.Name) {
		t.Errorf("the Service is not reached: %s", r)
	}
	get := func(pod, port string) kit.Result {
		return laptop.Run("workload", "get", "-timeout", "3s", "http://"+memberIPv4(n.Member(pod))+":"+port)
	}
	if r := get(server.Name, "8082"); r.Code != 0 || !strings.Contains(r.Stdout, server.Name) {
		t.Errorf("what is exposed is not reached: %s", r)
	}
	if r := get("client", "8081"); r.Code == 0 {
		t.Errorf("what is not exposed is reached: %s", r)
	}
	for _, address := range []string{"kubernetes.default.svc.cluster.local.", "web." + n.Name + ".svc.cluster.local.", "example.com."} {
		if r := laptop.Run("workload", "lookup", "-server", names.Status.Gateway.Addresses[0]+":53", address); r.Code == 0 {
			t.Errorf("the gateway tells a laptop of %s: %s", address, r)
		}
	}
	kit.Eventually(t, kit.Deadline, "answer of the laptop", func() error {
		r := n.Exec("client", kit.AppContainer, "get", "http://laptop.internal:8080")
		if h, err := kit.ParseHello(r.Stdout); err != nil || h.Host == "" {
			return errorf("%s (%w)", r, err)
		}
		return nil
	})
	kit.Eventually(t, kit.Deadline, "laptop in the list", func() error {
		if list := kubectlTenantwire(n, "peer", "list"); !strings.Contains(list, chosen) || strings.Count(list, "True") < 2 {
			return errorf("%s", list)
		}
		return nil
	})

	kubectlTenantwire(n, "peer", "rm", "laptop")
	n.WaitGone(&v1alpha1.TunnelPeer{ObjectMeta: metav1.ObjectMeta{Name: "laptop"}})
	kit.Eventually(t, kit.Deadline, "end of the laptop's tunnel", func() error {
		if r := get(server.Name, "8082"); r.Code == 0 {
			return errorf("it still reaches %s", server.Name)
		}
		return nil
	})
}
