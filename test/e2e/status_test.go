package e2e

import (
	"bytes"
	"fmt"
	"net"
	"regexp"
	"strings"
	"testing"

	"github.com/tenantwire/tenantwire/cli"
	"github.com/tenantwire/tenantwire/injector"
	"github.com/tenantwire/tenantwire/sidecar/wire"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
	"github.com/tenantwire/tenantwire/test/kit"
)

// kubectl tenantwire status and wg show what pods carry, through ports that the kubelet forwards. Who reaches a pod's address is not shown it:
// not a pod of the same tunnel, and not the API server's proxy.
func TestStatus(t *testing.T) {
	t.Parallel()
	n := cluster.Namespace(t)
	n.Tunnel("main", kit.Exposing("web"), withIPv4("10.77.0.0/24"), func(s *v1alpha1.TenantTunnelSpec) {
		s.Gateway = &v1alpha1.Gateway{Replicas: 2}
	})
	server := web(n, 1)[0]
	n.Create(kit.Pod("client", "serve", "http=:8081"))
	n.WaitReady("client")
	n.Ask("client", "http://web")
	gateway, gatewayKey := activeGateway(n, "")
	serves, asks := n.Member(server.Name), n.Member("client")

	shown := kubectlTenantwire(n, "wg", "client")
	for _, want := range []string{"interface: wg0\n  public key: " + asks.Status.PublicKey + "\n  private key: (hidden)\n  listening port: 51820\n", "peer: " + serves.Status.PublicKey + "\n  endpoint: " + serves.Status.Endpoint + "\n",
		memberIPv4(serves) + "/32", "  latest handshake: ", " received, ", "peer: " + gatewayKey} {
		if !strings.Contains(shown, want) {
			t.Errorf("wg does not show %q:\n%s", want, shown)
		}
	}
	kit.Eventually(t, kit.Deadline, "the path to the server found to take what is sent", func() error {
		_, of, _ := strings.Cut(kubectlTenantwire(n, "wg", "client"), "peer: "+serves.Status.PublicKey+"\n")
		if of, _, _ = strings.Cut(of, "\n\n"); strings.HasSuffix(strings.TrimSpace(of), " bytes, Verified") {
			return nil
		}
		n.Ask("client", "http://web")
		return fmt.Errorf("wg shows %q", of)
	})
	if shown := kubectlTenantwire(n, "wg", gateway, "-o", "dump"); !strings.HasPrefix(shown, "(hidden)\t"+gatewayKey+"\t51820\toff\n") || !strings.Contains(shown, asks.Status.PublicKey) {
		t.Errorf("the gateway's dump:\n%s", shown)
	}

	var status string
	kit.Eventually(t, kit.Deadline, "a status without a fault", func() error {
		var out, said bytes.Buffer
		if code := cli.Run(t.Context(), "test", []string{"-n", n.Name, "status"}, cli.Streams{In: strings.NewReader(""), Out: &out, Err: &said}); code != cli.ExitOK {
			return errorf("code %d\n%s%s", code, out.String(), said.String())
		}
		status = out.String()
		for _, line := range strings.Split(status, "\n") {
			if regexp.MustCompile(`^client .* ago +[1-9][0-9.]* (B|KiB) +[1-9][0-9.]* (B|KiB)`).MatchString(line) {
				return nil
			}
		}
		return errorf("%s", status)
	})
	for _, want := range []string{"2/2", "Netstack:2", gateway + " ", "active", "standby", ":51820"} {
		if !strings.Contains(status, want) {
			t.Errorf("status does not show %q:\n%s", want, status)
		}
	}

	if body, err := cluster.Fetch(t.Context(), n.Name, "client", injector.HealthPort, "/healthz"); err != nil {
		t.Errorf("the control: the health port is not reached by the API server's proxy: %v %s", err, body)
	}
	if body, err := cluster.Fetch(t.Context(), n.Name, "client", injector.HealthPort, wire.DevicePath); err == nil || strings.Contains(body, serves.Status.PublicKey) {
		t.Errorf("the API server's proxy is shown the device: %s", body)
	}
	host, _, err := net.SplitHostPort(asks.Status.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	if r := n.Exec(server.Name, kit.AppContainer, "get", "-timeout", "3s", "http://"+net.JoinHostPort(host, "51821")+wire.DevicePath); strings.Contains(r.Stdout, serves.Status.PublicKey) || !strings.Contains(r.String(), "127.0.0.1 alone") && !strings.Contains(r.String(), "403") {
		t.Errorf("another pod is shown the device, or does not reach it: %s", r)
	}
}
