package injector

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// Name is something that a member reaches by name through the tunnel.
type Name struct {
	// Name is the Service's name or the host.
	Name string
	// Address is the loopback address that the name leads to inside the pod.
	Address netip.Addr
	// Hostnames are every spelling of the name, the shortest first.
	Hostnames []string

	ports []v1alpha1.Port
	known bool // ports is what there is; false for a Service that does not exist yet
	own   bool // a Service that this very pod stands behind
	// targets are the ports of this pod that the own Service leads to, as far as the Service says them by number.
	targets []v1alpha1.Port
}

// carriedNames derives what the pod carries: the tunnel's Services by name, then its hosts, as far as the annotation lists them.
func carriedNames(c *candidate) finding {
	all := c.tunnelNames()
	annotation, limited := c.Pod.Annotations[v1alpha1.AnnotationCarry]
	if limited {
		wanted, f := parseCarry(annotation, all)
		if f.found() {
			return f
		}
		all = slices.DeleteFunc(all, func(n Name) bool { return !slices.Contains(wanted, n.Name) })
	}
	for i := range all {
		all[i].Address = nameAddress(i + 1)
	}
	c.names = all
	c.warnShadowed()
	return finding{}
}

// tunnelNames is everything that the pod's tunnel carries. A host that has the name of an exposed Service is left out: the tunnel
// carries the Service.
func (c *candidate) tunnelNames() []Name {
	names := make([]Name, 0, len(c.tunnel.Spec.Expose)+len(c.tunnel.Spec.Egress))
	services := make(map[string]*corev1.Service, len(c.Services))
	for i := range c.Services {
		services[c.Services[i].Name] = &c.Services[i]
	}
	taken := make(map[string]bool, cap(names))
	for _, e := range c.tunnel.Spec.Expose {
		if !taken[e.Service] {
			taken[e.Service] = true
			names = append(names, c.serviceName(e.Service, services[e.Service]))
		}
	}
	hosts := len(names)
	for _, e := range c.tunnel.Spec.Egress {
		if !taken[e.Host] {
			taken[e.Host] = true
			names = append(names, Name{Name: e.Host, Hostnames: []string{e.Host}, ports: withProtocol(e.Ports), known: true})
		}
	}
	byName := func(a, b Name) int { return cmp.Compare(a.Name, b.Name) }
	slices.SortFunc(names[:hosts], byName)
	slices.SortFunc(names[hosts:], byName)
	return names
}

func (c *candidate) serviceName(name string, svc *corev1.Service) Name {
	ns := c.Namespace.Name
	n := Name{Name: name, Hostnames: []string{name, name + "." + ns, name + "." + ns + ".svc", name + "." + ns + ".svc." + c.Config.ClusterDomain}}
	if svc == nil {
		return n
	}
	n.known = true
	n.own = len(svc.Spec.Selector) > 0 && labels.SelectorFromSet(svc.Spec.Selector).Matches(labels.Set(c.Pod.Labels))
	for _, p := range svc.Spec.Ports {
		protocol := v1alpha1.Protocol(cmp.Or(p.Protocol, corev1.ProtocolTCP))
		if protocol != v1alpha1.TCP && protocol != v1alpha1.UDP {
			continue
		}
		n.ports = append(n.ports, v1alpha1.Port{Port: p.Port, Protocol: protocol})
		if target := cmp.Or(p.TargetPort.IntVal, p.Port); n.own && p.TargetPort.Type == intstr.Int {
			n.targets = append(n.targets, v1alpha1.Port{Port: target, Protocol: protocol})
		}
	}
	return n
}

func withProtocol(ports []v1alpha1.Port) []v1alpha1.Port {
	out := slices.Clone(ports)
	for i := range out {
		out[i].Protocol = cmp.Or(out[i].Protocol, v1alpha1.TCP)
	}
	return out
}

func parseCarry(value string, all []Name) ([]string, finding) {
	if strings.TrimSpace(value) == "" {
		return nil, finding{}
	}
	var wanted []string
	for element := range strings.SplitSeq(value, ",") {
		name := strings.TrimSpace(element)
		if !slices.ContainsFunc(all, func(n Name) bool { return n.Name == name }) {
			known := make([]string, len(all))
			for i, n := range all {
				known[i] = n.Name
			}
			return nil, finding{MalformedAnnotation, fmt.Sprintf("metadata.annotations[%s]: the tunnel does not carry %q; it carries: %s",
				v1alpha1.AnnotationCarry, bounded(name), cmp.Or(list(known), "nothing"))}
		}
		wanted = append(wanted, name)
	}
	return wanted, finding{}
}

// nameAddress is the n-th address of 127.77.0.0/16, from 1.
func nameAddress(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{127, 77, byte(n >> 8), byte(n)})
}

// warnShadowed tells of a name that the pod's own hostname hides: the kubelet writes it into /etc/hosts before the hostAliases.
func (c *candidate) warnShadowed() {
	own := cmp.Or(c.Pod.Spec.Hostname, c.Pod.Name)
	for _, n := range c.names {
		if own != "" && n.Name == own && !n.own {
			c.warn("the pod's own hostname is %s: inside the pod that name leads to itself, not to what tunnel %s carries under it; use %s",
				own, c.tunnel.Name, n.Hostnames[len(n.Hostnames)-1])
		}
	}
}

// hostAliasesFree refuses a pod whose own hostAliases redefine what is carried. Entries equal to ours are our own work.
func hostAliasesFree(c *candidate) finding {
	carried := make(map[string]Name)
	byAddress := make(map[string]Name, len(c.names))
	for _, n := range c.names {
		byAddress[n.Address.String()] = n
		for _, h := range n.Hostnames {
			carried[h] = n
		}
	}
	for i, a := range c.Pod.Spec.HostAliases {
		if n, ok := byAddress[a.IP]; ok {
			if slices.Equal(a.Hostnames, n.Hostnames) {
				continue
			}
			return finding{HostAliasConflict, fmt.Sprintf("spec.hostAliases[%d].ip: %s is where %s is carried; use another address", i, a.IP, n.Name)}
		}
		for j, h := range a.Hostnames {
			if n, ok := carried[strings.ToLower(h)]; ok {
				return finding{HostAliasConflict, fmt.Sprintf("spec.hostAliases[%d].hostnames[%d]: %s is carried by tunnel %s; remove the alias, or leave %s out of the annotation %s",
					i, j, bounded(h), c.tunnel.Name, n.Name, v1alpha1.AnnotationCarry)}
			}
		}
	}
	return finding{}
}
