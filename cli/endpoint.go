package cli

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/tenantwire/tenantwire/tenant"
)

// endpoint is what a peer dials.
type endpoint struct {
	at   string // host:port
	note string // what the user should know about it
}

// entry is the way into a tunnel's gateway, as far as the cluster has made it.
type entry struct {
	name    string
	service *corev1.Service // nil: none yet
	nodes   []corev1.Node   // of a NodePort
}

func (n *namespace) entry(ctx context.Context, tunnel string) (entry, error) {
	e := entry{name: tenant.GatewayName(tunnel)}
	var s corev1.Service
	if err := n.client.Get(ctx, n.key(e.name), &s); apierrors.IsNotFound(err) {
		return e, nil
	} else if err != nil {
		return e, fmt.Errorf("find what to dial (--endpoint HOST:PORT does without): %w", err)
	}
	e.service = &s
	if s.Spec.Type == corev1.ServiceTypeNodePort {
		var nodes corev1.NodeList
		if err := n.client.List(ctx, &nodes); err != nil {
			return e, fmt.Errorf("find a node to dial, Service %s being a NodePort (--endpoint NODE:PORT does without): %w", e.name, err)
		}
		e.nodes = nodes.Items
	}
	return e, nil
}

// endpoint says where the gateway is reached, or what there is not yet.
func (e entry) endpoint() (_ endpoint, waits string) {
	if e.service == nil {
		return endpoint{}, "Service " + e.name
	}
	i := slices.IndexFunc(e.service.Spec.Ports, func(p corev1.ServicePort) bool { return p.Protocol == corev1.ProtocolUDP })
	if i < 0 {
		return endpoint{}, "a UDP port of Service " + e.name
	}
	switch port := e.service.Spec.Ports[i]; e.service.Spec.Type {
	case corev1.ServiceTypeLoadBalancer:
		return e.balanced(port.Port)
	case corev1.ServiceTypeNodePort:
		return e.onNode(port.NodePort)
	default:
		return e.inside(port.Port)
	}
}

func (e entry) balanced(port int32) (_ endpoint, waits string) {
	for _, in := range e.service.Status.LoadBalancer.Ingress {
		if host := cmp.Or(in.Hostname, in.IP); host != "" {
			return endpoint{at: hostPort(host, port)}, ""
		}
	}
	return endpoint{}, fmt.Sprintf("the cluster's load balancer to give Service %s an address (spec.gateway.endpoints of the tunnel or --endpoint does without)", e.name)
}

func (e entry) onNode(port int32) (_ endpoint, waits string) {
	host, kind := nodeAddress(e.nodes)
	if port == 0 || host == "" {
		return endpoint{}, fmt.Sprintf("a port of Service %s on the nodes, and a node with an address", e.name)
	}
	return endpoint{hostPort(host, port), fmt.Sprintf("%s is the %s of a node, as Service %s is a NodePort: this works only where that address is reachable, and while the node is there; --endpoint says another",
		host, kind, e.name)}, ""
}

func (e entry) inside(port int32) (_ endpoint, waits string) {
	ip := e.service.Spec.ClusterIP
	if ip == "" || ip == corev1.ClusterIPNone {
		return endpoint{}, "an address of Service " + e.name
	}
	return endpoint{hostPort(ip, port), fmt.Sprintf("%s works only inside the cluster, as Service %s is a ClusterIP: for others set spec.gateway.service.type or spec.gateway.endpoints of the tunnel, or say with --endpoint HOST:PORT what they dial",
		ip, e.name)}, ""
}

// nodeAddress prefers an external address, and nodes that are ready; the same one each time.
func nodeAddress(nodes []corev1.Node) (string, corev1.NodeAddressType) {
	nodes = slices.Clone(nodes)
	slices.SortFunc(nodes, func(a, b corev1.Node) int {
		return cmp.Or(-cmp.Compare(readiness(&a), readiness(&b)), strings.Compare(a.Name, b.Name))
	})
	for _, kind := range []corev1.NodeAddressType{corev1.NodeExternalIP, corev1.NodeInternalIP} {
		for i := range nodes {
			for _, a := range nodes[i].Status.Addresses {
				// A node says these of itself, and nobody checks them.
				if _, err := netip.ParseAddr(a.Address); a.Type == kind && err == nil {
					return a.Address, kind
				}
			}
		}
	}
	return "", ""
}

// readiness is 1 for a node that is ready.
func readiness(n *corev1.Node) int {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
			return 1
		}
	}
	return 0
}

func hostPort(host string, port int32) string { return net.JoinHostPort(host, strconv.Itoa(int(port))) }

// parseEndpoint reads what the user says to dial. It may be any address: a port of the user's own host may lead to a cluster on it.
func parseEndpoint(s string) (string, error) {
	host, port, err := net.SplitHostPort(s)
	n, notPort := strconv.ParseUint(port, 10, 16)
	addr, notAddr := netip.ParseAddr(host)
	named := len(validation.IsDNS1123Subdomain(strings.ToLower(strings.TrimSuffix(host, ".")))) == 0 && !allDigits(host) && s[0] != '['
	if err != nil || notPort != nil || n == 0 || notAddr != nil && !named || addr.Zone() != "" {
		return "", fmt.Errorf("%q is not a host and a port, for example vpn.example.com:51820, 203.0.113.7:51820 or [2001:db8::7]:51820", s)
	}
	return net.JoinHostPort(host, strconv.FormatUint(n, 10)), nil
}

// allDigits says whether a name could only be a mistyped IPv4 address.
func allDigits(host string) bool { return strings.Trim(host, "0123456789.") == "" }
