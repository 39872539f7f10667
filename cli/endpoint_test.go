package cli

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func gatewayService(kind corev1.ServiceType, change func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "tenantwire-gateway-net"}, Spec: corev1.ServiceSpec{Type: kind, ClusterIP: "10.96.7.7",
		Ports: []corev1.ServicePort{{Name: "wg", Protocol: corev1.ProtocolUDP, Port: 51820, NodePort: 31820}}}}
	if change != nil {
		change(s)
	}
	return s
}

func node(name string, ready corev1.ConditionStatus, addresses ...corev1.NodeAddress) corev1.Node {
	return corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{Addresses: addresses,
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}}}
}

func at(kind corev1.NodeAddressType, address string) corev1.NodeAddress {
	return corev1.NodeAddress{Type: kind, Address: address}
}

func ingress(hostname, ip string) func(*corev1.Service) {
	return func(s *corev1.Service) {
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{}, {Hostname: hostname, IP: ip}}
	}
}

func TestEndpoint(t *testing.T) {
	internal := []corev1.Node{node("b", corev1.ConditionTrue, at(corev1.NodeHostName, "b"), at(corev1.NodeInternalIP, "192.168.0.2")),
		node("a", corev1.ConditionFalse, at(corev1.NodeInternalIP, "192.168.0.1"))}
	external := append(slices.Clone(internal), node("c", corev1.ConditionFalse, at(corev1.NodeExternalIP, "2001:db8::3")))
	for name, c := range map[string]struct {
		service           *corev1.Service
		nodes             []corev1.Node
		want, note, waits string // of the last two, a part
	}{
		"no Service":                     {nil, nil, "", "", "Service tenantwire-gateway-net"},
		"no port":                        {gatewayService(corev1.ServiceTypeClusterIP, func(s *corev1.Service) { s.Spec.Ports[0].Protocol = corev1.ProtocolTCP }), nil, "", "", "UDP port"},
		"load balancer":                  {gatewayService(corev1.ServiceTypeLoadBalancer, ingress("", "203.0.113.7")), nil, "203.0.113.7:51820", "", ""},
		"load balancer, IPv6":            {gatewayService(corev1.ServiceTypeLoadBalancer, ingress("", "2001:db8::7")), nil, "[2001:db8::7]:51820", "", ""},
		"load balancer with a name":      {gatewayService(corev1.ServiceTypeLoadBalancer, ingress("lb.example.com", "203.0.113.7")), nil, "lb.example.com:51820", "", ""},
		"load balancer without address":  {gatewayService(corev1.ServiceTypeLoadBalancer, nil), nil, "", "", "load balancer"},
		"node with an external address":  {gatewayService(corev1.ServiceTypeNodePort, nil), external, "[2001:db8::3]:31820", "ExternalIP", ""},
		"nodes with internal ones":       {gatewayService(corev1.ServiceTypeNodePort, nil), internal, "192.168.0.2:31820", "InternalIP", ""},
		"no node that is ready":          {gatewayService(corev1.ServiceTypeNodePort, nil), internal[1:], "192.168.0.1:31820", "InternalIP", ""},
		"no nodes":                       {gatewayService(corev1.ServiceTypeNodePort, nil), nil, "", "", "node"},
		"no port on the nodes":           {gatewayService(corev1.ServiceTypeNodePort, func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 0 }), internal, "", "", "port"},
		"cluster":                        {gatewayService(corev1.ServiceTypeClusterIP, nil), nil, "10.96.7.7:51820", "inside the cluster", ""},
		"cluster, the address not given": {gatewayService(corev1.ServiceTypeClusterIP, func(s *corev1.Service) { s.Spec.ClusterIP = "" }), nil, "", "", "address"},
	} {
		t.Run(name, func(t *testing.T) {
			got, waits := entry{"tenantwire-gateway-net", c.service, c.nodes}.endpoint()
			if got.at != c.want || !strings.Contains(got.note, c.note) || (c.note == "") != (got.note == "") || !strings.Contains(waits, c.waits) || (c.waits == "") != (waits == "") {
				t.Errorf("%+v, waits for %q", got, waits)
			}
		})
	}
}

func TestParseEndpoint(t *testing.T) {
	for _, good := range []string{"vpn.example.com:51820", "VPN.example.com:1", "gw:65535", "203.0.113.7:51820", "[2001:db8::7]:51820", "127.0.0.1:30820", "3com.a:9"} {
		if got, err := parseEndpoint(good); err != nil || got != good {
			t.Errorf("%s: %s, %v", good, got, err)
		}
	}
	for _, bad := range []string{"", ":", ":1", "a", "a:", "a:0", "a:-1", "a:x", "a:65536", "1.2.3:1", "300.1.1.1:1", "2001:db8::7:51820", "[a]:1", "a b:1", "a\n:1", "a_b:1", "[fe80::1%0]:1", "[::1"} {
		if got, err := parseEndpoint(bad); err == nil {
			t.Errorf("%q was taken for %s", bad, got)
		}
	}
}
