package e2e

import (
	"fmt"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
	"github.com/tenantwire/tenantwire/test/kit"
)

// Two sites have one CIDR, and a host of the same address each. With one of them mapped, a pod reaches either host by its name, TCP and
// UDP, a pod without a sidecar by a Service; and either site reaches what is exposed, and nothing else.
func TestMapping(t *testing.T) {
	t.Parallel()
	n := cluster.Namespace(t)
	ports := []v1alpha1.Port{{Port: 8080}, {Port: 5353, Protocol: v1alpha1.UDP}}
	n.Tunnel("main", kit.Exposing("web"), withIPv4("10.77.0.0/24"), func(s *v1alpha1.TenantTunnelSpec) {
		s.Gateway = &v1alpha1.Gateway{Replicas: 1}
		s.Egress = []v1alpha1.EgressHost{{Host: "db.berlin.internal", Address: siteAddress, Ports: ports},
			{Host: "db.paris.internal", Address: "192.168.20.20", Service: "paris", Ports: ports}}
	})
	web := kit.Deployment("web", 1, "serve", "http=:8082") // not the port of the carried hosts
	kit.Declare(&web.Spec.Template.Spec, "8082")
	client, outside := kit.Pod("client", "serve", "http=:8081"), kit.Pod("outside")
	kit.Declare(&client.Spec, "8081")
	outside.Annotations = map[string]string{v1alpha1.AnnotationInject: "false"}
	n.Create(kit.Service("web", "80:8082"), web, client, outside)
	server := n.WaitRollout("web")[0]
	n.WaitReady("client", "outside")
	_, publicKey := activeGateway(n, "")

	sites := map[string]*site{}
	for _, name := range []string{"berlin", "paris"} {
		s := newSite(t)
		sites[name] = s
		n.Create(&v1alpha1.TunnelPeer{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.TunnelPeerSpec{
			Tunnel: "main", PublicKey: s.private.Public().String(), Routes: []string{"192.168.10.0/24"}}})
		is(n, name, map[string]string{"berlin": "Accepted", "paris": "RouteOverlap"}[name])
		s.startWith(name, fmt.Sprintf(`peers: [{publicKey: %s, endpoint: tenantwire-gateway-main.%s.svc:51820, allowedIPs: [10.77.0.0/24], keepalive: 1s}]
forwards:
- {listen: 127.0.0.1:9000, targets: ["%s:8082"]}
- {listen: 127.0.0.1:9001, targets: ["%s:8081"]}
`, publicKey, n.Name, memberIPv4(n.Member(server.Name)), memberIPv4(n.Member("client"))))
	}
	kit.Change(n, "paris", &v1alpha1.TunnelPeer{}, func(p *v1alpha1.TunnelPeer) {
		p.Spec.Mappings = []v1alpha1.RouteMapping{{Route: "192.168.10.0/24", MapTo: "192.168.20.0/24"}}
	})
	is(n, "paris", "Accepted")

	for name, s := range sites {
		host := "db." + name + ".internal"
		isAnsweredBy(n, kit.Deadline, "http://"+host+":8080", name)
		n.EventuallyApp("client", "udp-ping", "-interval", "20ms", "-duration", "500ms", host+":5353")
		kit.Eventually(t, kit.Deadline, "answer to "+name, func() error {
			r := s.n.Exec(name, kit.AppContainer, "get", "http://127.0.0.1:9000")
			if h, err := kit.ParseHello(r.Stdout); err != nil || h.Host != server.Name {
				return errorf("%s (%w)", r, err)
			}
			return nil
		})
		for range 3 {
			if r := s.n.Exec(name, kit.AppContainer, "get", "-timeout", "2s", "http://127.0.0.1:9001"); r.Code == 0 {
				t.Errorf("%s reaches a port that is not exposed: %s", name, r)
			}
		}
	}
	if h := answered(n, "outside", "http://paris:8080"); h.Host != "paris" {
		t.Errorf("a pod without a sidecar is answered by %+v", h)
	}
}

// is waits until a peer is decided on with that reason.
func is(n *kit.Namespace, peer, reason string) {
	n.T.Helper()
	kit.Eventually(n.T, kit.Deadline, peer+" is "+reason, func() error {
		var p v1alpha1.TunnelPeer
		n.Read(peer, &p)
		if c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionAccepted); c == nil || c.Reason != reason {
			return errorf("%+v", c)
		}
		return nil
	})
}
