package e2e

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/tenantwire/tenantwire/injector"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
	"github.com/tenantwire/tenantwire/test/kit"
)

// health is the port of the sidecar's own endpoint.
var health = strconv.Itoa(injector.HealthPort)

const (
	socks   = "socks5://127.0.0.1:1080"
	connect = "http://127.0.0.1:3128"
)

func withProxies(env v1alpha1.ProxyEnv) func(*v1alpha1.TenantTunnelSpec) {
	return func(s *v1alpha1.TenantTunnelSpec) {
		s.Proxies = []v1alpha1.Proxy{{Protocol: v1alpha1.SOCKS5, Port: 1080, Env: env}, {Protocol: v1alpha1.HTTPConnect, Port: 3128, Env: env}}
	}
}

// Both proxies lead to carried names and to tunnel addresses, and nowhere else.
func TestProxyReachesTheTunnelAlone(t *testing.T) {
	t.Parallel()
	n := cluster.Namespace(t)
	n.Tunnel("main", kit.Exposing("web"), withProxies(v1alpha1.ProxyEnvUnset), withIPv4("10.77.0.0/24"))
	server := web(n, 1)[0]
	n.Create(kit.Pod("client"))
	n.WaitReady("client")
	n.EventuallyApp("client", "get", "http://web")
	member := n.Member(server.Name)
	for _, proxy := range []string{socks, connect} {
		t.Run(strings.SplitN(proxy, ":", 2)[0], func(t *testing.T) {
			through := func(url string) kit.Result {
				return n.Exec("client", kit.AppContainer, "get", "-timeout", "10s", "-proxy", proxy, url)
			}
			hosts := []string{"web", "web." + n.Name, "web." + n.Name + ".svc", "web." + n.Name + ".svc.cluster.local"}
			for _, a := range member.Spec.Addresses {
				hosts = append(hosts, bracketed(a)+":8080")
			}
			for _, host := range hosts {
				if r := through("http://" + host); r.Code != 0 {
					t.Errorf("%s: %s", host, r)
				}
			}
			for _, host := range []string{
				server.Status.PodIP + ":8080",              // the same pod outside its tunnel
				"127.0.0.1:" + health,                      // the sidecar
				"[::1]:" + health,                          //
				"169.254.169.254",                          // metadata
				"10.96.0.1:443",                            // the API server
				"kubernetes.default.svc:443",               //
				bracketed(member.Spec.Addresses[0]) + ":9", // a port that nobody declared
			} {
				if r := through("http://" + host); r.Code == 0 {
					t.Errorf("%s was reached: %s", host, r)
				} else if unanswered(r) {
					t.Errorf("%s was not refused, but left without an answer: %s", host, r)
				}
			}
		})
	}
}

// A tunnel address accepts what the pod declares or lists by annotation, and refuses the rest.
func TestInboundAcceptsWhatIsDeclared(t *testing.T) {
	t.Parallel()
	n := cluster.Namespace(t)
	n.Tunnel("main", withProxies(v1alpha1.ProxyEnvUnset))
	serve := func(name string) *corev1.Pod {
		p := kit.Pod(name, "serve", "http=:8080", "http=:8081", "http=:8082")
		kit.Declare(&p.Spec, "8080")
		return p
	}
	listed := serve("listed")
	annotate(v1alpha1.AnnotationExpose, "8081, 5353/udp")(listed)
	n.Create(serve("declared"), listed, kit.Pod("client"))
	n.WaitReady("declared", "listed", "client")
	for _, c := range []struct {
		pod, port string
		open      bool
	}{
		{"declared", "8080", true}, {"declared", "8081", false}, {"declared", health, false}, {"declared", "51820", false},
		{"listed", "8080", true}, {"listed", "8081", true}, {"listed", "8082", false}, {"listed", "5353", false},
	} {
		url := "http://" + bracketed(n.Member(c.pod).Spec.Addresses[0]) + ":" + c.port
		check := func() error {
			r := n.Exec("client", kit.AppContainer, "get", "-proxy", socks, url)
			if (r.Code == 0) != c.open {
				return errorf("%s:%s open %t, want %t: %s", c.pod, c.port, r.Code == 0, c.open, r)
			}
			return nil
		}
		kit.Eventually(t, kit.Deadline, c.pod+":"+c.port, check)
	}
	// The annotation may change while the pod runs.
	kit.Change(n, "declared", &corev1.Pod{}, annotate(v1alpha1.AnnotationExpose, "8081"))
	n.EventuallyApp("client", "get", "-proxy", socks, "http://"+bracketed(n.Member("declared").Spec.Addresses[0])+":8081")
}

// On request containers are told of the proxies by the variables that programs know; those they set themselves stay.
func TestProxyVariables(t *testing.T) {
	t.Parallel()
	n := cluster.Namespace(t)
	n.Tunnel("main", kit.Exposing("web"), withProxies(v1alpha1.ProxyEnvSet))
	web(n, 1)
	p := kit.Pod("told", "get", "-n", "1000000", "-interval", "100ms", "-proxy", "$(ALL_PROXY)", "http://web")
	second := kit.Container("own")
	second.Env = []corev1.EnvVar{{Name: "https_proxy", Value: "http://proxy.example:8080"}}
	p.Spec.Containers = append(p.Spec.Containers, second)
	n.Create(p)
	got := n.WaitReady("told")[0]
	want := map[string]string{"ALL_PROXY": "socks5h://127.0.0.1:1080", "HTTPS_PROXY": "http://127.0.0.1:3128"}
	for name, value := range want {
		if v := env(&got.Spec.Containers[0], name); v != value {
			t.Errorf("%s=%q, want %q", name, v, value)
		}
	}
	direct := strings.Split(env(&got.Spec.Containers[0], "NO_PROXY"), ",")
	for _, w := range []string{"localhost", "127.0.0.1", "web", ".svc"} {
		if !slices.Contains(direct, w) {
			t.Errorf("NO_PROXY %v lacks %s", direct, w)
		}
	}
	if v := env(&got.Spec.Containers[1], "HTTPS_PROXY"); v != "" {
		t.Errorf("the container has https_proxy of its own and got HTTPS_PROXY=%s", v)
	}
	kit.Eventually(t, kit.Deadline, "answers through the proxy that the variable names", func() error {
		text, err := n.Logs(t.Context(), "told", corev1.PodLogOptions{Container: kit.AppContainer})
		if err == nil && !strings.Contains(text, " 200 ") {
			err = errorf("log %q", text)
		}
		return err
	})
}

func env(c *corev1.Container, name string) string {
	for _, e := range c.Env {
		if e.Name == name {
			return e.Value
		}
	}
	return ""
}
