package e2e

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/tenantwire/tenantwire/test/kit"
)

// A Service of every kind of traffic: low ports, TCP with its endings, UDP.
func TestServiceCarriesTraffic(t *testing.T) {
	t.Parallel()
	n := cluster.Namespace(t)
	n.Tunnel("main", kit.Exposing("all"))
	server := kit.Deployment("all", 1, "serve", "http=:8080", "tcp-echo=:7007", "udp-echo=:5353", "sink=:7009", "half-close=:7010", "reset=:7011")
	kit.Declare(&server.Spec.Template.Spec, "8080", "7007", "5353/udp", "7009", "7010", "7011")
	n.Create(kit.Service("all", "80:8080", "7:7007", "53:5353/udp", "9:7009", "10:7010", "11:7011"), server, kit.Pod("client"))
	n.WaitRollout("all")
	n.WaitReady("client")
	n.EventuallyApp("client", "get", "http://all")

	const large = "268435456" // 256 MiB
	for name, args := range map[string][]string{
		"echo":        {"tcp-ping", "-interval", "10ms", "-duration", "1s", "all:7"},
		"udp":         {"udp-ping", "-interval", "10ms", "-duration", "1s", "all:53"},
		"udp large":   {"udp-ping", "-interval", "50ms", "-duration", "1s", "-size", "8000", "all:53"},
		"download":    {"download", "http://all/download?bytes=" + large},
		"upload":      {"upload", "http://all/upload", "67108864"},
		"half-close":  {"half-close", "all:10", "10000000"},
		"client ends": {"send", "all:9", "10000000"},
		"reset":       {"reset", "all:11"},
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			t.Logf("%s (%s)", strings.TrimSpace(n.App("client", args...)), time.Since(start).Round(time.Millisecond))
		})
	}
}

// A pod behind a Service reaches it too: at the ports that the Service does not share with it, through the tunnel; at those it
// listens on itself, itself.
func TestServiceCalledByItsOwnPods(t *testing.T) {
	t.Parallel()
	n := cluster.Namespace(t)
	n.Tunnel("main", kit.Exposing("web", "same"))
	pods := web(n, 2)
	same := kit.Deployment("same", 2, "serve", "http=:8080")
	kit.Declare(&same.Spec.Template.Spec, "8080")
	n.Create(kit.Service("same", "8080"), same)
	sames := n.WaitRollout("same")
	for _, p := range pods {
		kit.Eventually(t, kit.Deadline, "answers to "+p.Name+" from both pods of its Service", func() error {
			answered := map[string]bool{}
			for range 8 {
				answered[n.Ask(p.Name, "http://web").Host] = true
			}
			if !answered[pods[0].Name] || !answered[pods[1].Name] {
				return errorf("only from %v", answered)
			}
			return nil
		})
	}
	for _, p := range sames {
		if h := n.Ask(p.Name, "http://same:8080"); h.Host != p.Name {
			t.Errorf("%s listens on the Service's port and was answered by %s", p.Name, h.Host)
		}
		n.Ask(p.Name, "http://web")
	}
}

// Connections spread over the pods behind a Service that are ready, and none goes to one that is not.
func TestServiceFollowsReadiness(t *testing.T) {
	t.Parallel()
	n := cluster.Namespace(t)
	n.Tunnel("main", kit.Exposing("web"))
	pods := web(n, 3)
	n.Create(kit.Pod("client"))
	n.WaitReady("client")
	kit.Eventually(t, kit.Deadline, "answers from every pod", func() error {
		answered := map[string]int{}
		for line := range strings.Lines(n.App("client", "get", "-n", "60", "http://web")) {
			h, err := kit.ParseHello(line)
			if err != nil {
				return err
			}
			answered[h.Host]++
		}
		for _, p := range pods {
			if answered[p.Name] < 10 {
				return errorf("60 requests went to %v", answered)
			}
		}
		return nil
	})

	// One that is selected, but never ready.
	unready := kit.Pod("unready", "serve", "http=:8080")
	unready.Labels["app"] = "web"
	kit.Declare(&unready.Spec, "8080")
	unready.Spec.Containers[0].ReadinessProbe.TCPSocket.Port.IntVal = 9
	n.Create(unready)
	n.Member("unready")
	for line := range strings.Lines(n.App("client", "get", "-n", "60", "http://web")) {
		if h, err := kit.ParseHello(line); err != nil || h.Host == "unready" {
			t.Fatalf("%s, %v", line, err)
		}
	}
}

// Pods may go, and be replaced, while others keep opening connections; connections to those that stay are not touched.
func TestServiceWhilePodsGo(t *testing.T) {
	t.Parallel()
	n := cluster.Namespace(t)
	n.Tunnel("main", kit.Exposing("web", "echo"))
	echo := kit.Pod("echo", "serve", "tcp-echo=:7007", "udp-echo=:5353")
	kit.Declare(&echo.Spec, "7007", "5353/udp")
	n.Create(kit.Service("echo", "7:7007", "53:5353/udp"), echo)
	pods := web(n, 3)
	n.WaitReady("echo")
	tr := n.StartRequests("client", 10*time.Millisecond, "http://web")
	pings := []*kit.Traffic{n.StartPing("tcp", "tcp", steady, "echo:7"), n.StartPing("udp", "udp", steady, "echo:53")}

	n.Remove(pods[0].DeepCopy())
	n.WaitGone(&pods[0])
	n.WaitRollout("web")
	tr.WaitMore(100)
	tr.MustBeWhole()

	kit.Change(n, "web", webDeployment(3), restart)
	n.WaitRollout("web")
	tr.WaitMore(100)
	pods = n.Pods("web")
	kit.Eventually(t, kit.Deadline, "answers from every new pod", func() error {
		s, err := tr.Seen()
		for _, p := range pods {
			if s.Hosts[p.Name] == 0 {
				return errorf("none from %s; hosts %v; %w", p.Name, s.Hosts, err)
			}
		}
		return err
	})
	tr.MustBeWhole()
	for _, ping := range pings {
		e := ping.StopPing()
		if t.Logf("%s: %+v", ping.Pod(), e); e.Lost > 0 || e.Error != "" || e.Sent < 100 {
			t.Errorf("a connection to a pod that stayed: %+v", e)
		}
	}
}

// With nobody behind it a Service refuses at once, as it does without a tunnel, and works again with the first pod.
func TestServiceScaledToZeroAndBack(t *testing.T) {
	t.Parallel()
	n := cluster.Namespace(t)
	n.Tunnel("main", kit.Exposing("web"))
	web(n, 1)
	n.Create(kit.Pod("client"))
	n.WaitReady("client")
	n.EventuallyApp("client", "get", "http://web")
	n.Scale("web", 0)
	kit.Eventually(t, kit.Deadline, "refusal", func() error {
		if r := n.Exec("client", kit.AppContainer, "get", "http://web"); r.Code == 0 || !refused(r) {
			return errorf("%s", r)
		}
		return nil
	})
	n.Scale("web", 1)
	n.EventuallyApp("client", "get", "http://web")
}

// A Service may be made after the tunnel and after the pods that carry its name, and may change its ports.
func TestServiceMadeLater(t *testing.T) {
	t.Parallel()
	n := cluster.Namespace(t)
	n.Tunnel("main", kit.Exposing("web"))
	n.Create(kit.Pod("client"), webDeployment(1))
	n.WaitReady("client")
	n.WaitRollout("web")
	n.Create(kit.Service("web", "80:8080"))
	n.EventuallyApp("client", "get", "http://web")
	kit.Change(n, "web", &corev1.Service{}, func(s *corev1.Service) {
		s.Spec.Ports = kit.Service("web", "80:8080", "81:8080").Spec.Ports
	})
	n.EventuallyApp("client", "get", "http://web:81")
	n.App("client", "get", "http://web")
}
