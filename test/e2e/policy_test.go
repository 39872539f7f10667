package e2e

import (
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
	"github.com/tenantwire/tenantwire/test/kit"
)

// policyDoors are what a site tries, each at a port of its loopback that leads straight to a member, to the gateway, or to a Service's own
// address.
var policyDoors = map[string][]string{
	"web":      {"get", "-timeout", "2s", "http://127.0.0.1:9000"},
	"echo":     {"tcp-ping", "-interval", "20ms", "-duration", "200ms", "127.0.0.1:9001"},
	"page":     {"get", "-timeout", "2s", "http://127.0.0.1:9002"},
	"udp":      {"udp-ping", "-interval", "20ms", "-duration", "200ms", "127.0.0.1:9003"},
	"own-web":  {"get", "-timeout", "2s", "http://127.0.0.1:9005"},
	"own-page": {"get", "-timeout", "2s", "http://127.0.0.1:9006"},
	"names":    {"lookup", "-server", "127.0.0.1:9004", "web.main.tunnel."},
}

// reaches waits until a site reaches what is wanted of it, and then nothing else.
func (s *site) reaches(pod, wanted string) {
	s.n.T.Helper()
	for door := range strings.FieldsSeq(wanted) {
		kit.Eventually(s.n.T, kit.Deadline, pod+" reaches "+door, func() error {
			r, err := s.n.Run(pod, kit.AppContainer, policyDoors[door]...)
			if err != nil || r.Code != 0 {
				return errorf("%s (%w)", r, err)
			}
			return nil
		})
	}
	for door, args := range policyDoors {
		if strings.Contains(" "+wanted+" ", " "+door+" ") {
			continue
		}
		kit.Eventually(s.n.T, kit.Deadline, pod+" does not reach "+door, func() error { // what was allowed just before may be so for a moment
			for range 3 { // one that is open may fail once
				if r := s.n.Exec(pod, kit.AppContainer, args...); r.Code == 0 {
					return errorf("%s", r)
				}
			}
			return nil
		})
	}
}

// hold opens a connection through the site's door and waits until it is carried. The result says how it ended: within its two minutes
// something ended it, and it had worked until then.
func (s *site) hold(pod string) (ended func()) {
	s.n.T.Helper()
	type outcome struct {
		kit.Result
		err error
	}
	done := make(chan outcome, 1)
	go func() {
		r, err := s.n.Run(pod, kit.AppContainer, "tcp-ping", "-interval", "20ms", "-duration", "2m", "127.0.0.1:9001")
		done <- outcome{r, err}
	}()
	kit.Eventually(s.n.T, kit.Deadline, "an open connection of "+pod, func() error {
		text, err := s.n.Fetch(s.n.T.Context(), s.n.Name, pod, 8090, "metrics")
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "tenantwire_relay_open_connections{") && strings.Contains(line, ":9001") && strings.HasSuffix(line, " 1\n") {
				return nil
			}
		}
		return errorf("%s (%w)", text, err)
	})
	return func() {
		s.n.T.Helper()
		var got outcome
		kit.Eventually(s.n.T, kit.Deadline, "end of the connection of "+pod, func() error {
			select {
			case got = <-done:
				return nil
			default:
				return errorf("it is open")
			}
		})
		if got.err != nil || got.Code == 0 || strings.Contains(got.Stdout, `"received":0,`) {
			s.n.T.Errorf("the connection of %s was not cut, or never worked: %s (%v)", pod, got.Result, got.err)
		}
	}
}

// Of two outside peers behind a gateway each reaches what the rules for its labels grant, and nothing else. Labels and rules count from when
// they change, for connections that are open too.
func TestPolicy(t *testing.T) {
	t.Parallel()
	n := cluster.Namespace(t)
	rule := func(team v1alpha1.LabelValue, service string, ports ...v1alpha1.Port) v1alpha1.InboundRule {
		return v1alpha1.InboundRule{Peers: v1alpha1.PeerSelector{MatchLabels: map[string]v1alpha1.LabelValue{"team": team}}, Services: []string{service}, Ports: ports}
	}
	rules := []v1alpha1.InboundRule{
		rule("b", "page"),
		rule("b", "web", v1alpha1.Port{Port: 53, Protocol: v1alpha1.UDP}),
		rule("a", "web", v1alpha1.Port{Port: 80}, v1alpha1.Port{Port: 81}),
	}
	tunnel := n.Tunnel("main", kit.Exposing("web", "page"), withIPv4("10.77.0.0/24"), func(s *v1alpha1.TenantTunnelSpec) {
		s.Gateway = &v1alpha1.Gateway{Replicas: 1}
		s.Policy = &v1alpha1.Policy{Inbound: rules}
	})
	web := kit.Deployment("web", 1, "serve", "http=:8082", "tcp-echo=:8083", "udp-echo=:5353")
	kit.Declare(&web.Spec.Template.Spec, "8082")
	page := kit.Deployment("page", 1, "serve", "http=:8084")
	kit.Declare(&page.Spec.Template.Spec, "8084")
	n.Create(kit.Service("web", "80:8082", "81:8083", "53:5353/udp"), web, kit.Service("page", "80:8084"), page)
	webAt, pageAt := memberIPv4(n.Member(n.WaitRollout("web")[0].Name)), memberIPv4(n.Member(n.WaitRollout("page")[0].Name))
	_, publicKey := activeGateway(n, "")
	var named v1alpha1.TenantTunnel
	own := map[string]string{} // IPv4 address of each Service
	kit.Eventually(t, kit.Deadline, "addresses of both Services", func() error {
		n.Read("main", &named)
		for _, s := range named.Status.Services {
			own[s.Service] = s.Addresses[0]
		}
		if len(own) < 2 {
			return errorf("%+v", named.Status.Services)
		}
		return nil
	})

	join := func(name, team, network string) *site {
		s := newSite(t)
		s.address = network + ".20"
		n.Create(&v1alpha1.TunnelPeer{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"team": team}}, Spec: v1alpha1.TunnelPeerSpec{
			Tunnel: "main", PublicKey: s.private.Public().String(), Routes: []string{network + ".0/24"}}})
		s.startWith(name, fmt.Sprintf(`peers: [{publicKey: %s, endpoint: tenantwire-gateway-main.%s.svc:51820, allowedIPs: [10.77.0.0/24], keepalive: 1s}]
forwards:
- {listen: 127.0.0.1:9000, targets: ["%[3]s:8082"]}
- {listen: 127.0.0.1:9001, targets: ["%[3]s:8083"]}
- {listen: 127.0.0.1:9002, targets: ["%[4]s:8084"]}
- {listen: 127.0.0.1:9003, protocol: UDP, targets: ["%[3]s:5353"]}
- {listen: 127.0.0.1:9004, protocol: UDP, targets: ["%[5]s:53"]}
- {listen: 127.0.0.1:9005, targets: ["%[6]s:80"]}
- {listen: 127.0.0.1:9006, targets: ["%[7]s:80"]}
`, publicKey, n.Name, webAt, pageAt, named.Status.Gateway.Addresses[0], own["web"], own["page"]))
		return s
	}
	alice, bob := join("alice", "a", "192.168.10"), join("bob", "b", "192.168.20")
	label := func(name, team string) {
		t.Helper()
		kit.Change(n, name, &v1alpha1.TunnelPeer{}, func(p *v1alpha1.TunnelPeer) { p.Labels["team"] = team })
	}
	alice.reaches("alice", "names web own-web echo")
	bob.reaches("bob", "names page own-page udp")

	ended := alice.hold("alice")
	label("bob", "a")
	bob.reaches("bob", "names web own-web echo")
	alice.reaches("alice", "names web own-web echo") // which the other's move is nothing to
	label("alice", "b")
	ended()
	alice.reaches("alice", "names page own-page udp")

	ended = bob.hold("bob")
	kit.Change(n, "main", tunnel, func(t *v1alpha1.TenantTunnel) { t.Spec.Policy.Inbound = rules[:2] })
	ended()
	bob.reaches("bob", "names")
	alice.reaches("alice", "names page own-page udp")

	kit.Change(n, "main", tunnel, func(t *v1alpha1.TenantTunnel) { t.Spec.Policy.Inbound = []v1alpha1.InboundRule{} })
	alice.reaches("alice", "names")
	kit.Change(n, "main", tunnel, func(t *v1alpha1.TenantTunnel) { t.Spec.Policy = nil })
	for name, s := range map[string]*site{"alice": alice, "bob": bob} {
		s.reaches(name, "names web own-web echo page own-page udp")
	}
}
