package injector

import (
	"cmp"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// LevelLabel is the label of a namespace that decides on what its gateways may have.
const LevelLabel = enforceLabel

// Site is where a gateway's pods are to be.
type Site struct {
	Namespace *corev1.Namespace
	// UserNamespacesOn: every node can give a pod a user namespace; see the function of that name.
	UserNamespacesOn bool
	// TakesOver: no gateway is active, but one is about to be; see tenant.TakesOver.
	TakesOver bool
}

// newGateway plans a gateway. With a reason to refuse, there must be no new pod of it: what it was asked to be cannot be had there.
func (c *Config) newGateway(t *v1alpha1.TenantTunnel, at Site) (g *gateway, refused string) {
	g = &gateway{Config: c, tunnel: t, name: tenant.GatewayName(t.Name), takesOver: at.TakesOver}
	g.grant, refused = c.gatewayGrant(t, at)
	pod := candidate{Input: Input{Config: c, Pod: &corev1.Pod{}, UserNamespacesOn: at.UserNamespacesOn}, grant: g.grant}
	g.apart = pod.userNamespace()
	return g, refused
}

// GatewayRefused says why a tunnel's gateway cannot have the datapath that it asks for, and what to change; empty: it can, as far as is
// known before its pods are on a node.
func (c *Config) GatewayRefused(t *v1alpha1.TenantTunnel, at Site) string {
	if t.Spec.Gateway == nil {
		return ""
	}
	_, refused := c.gatewayGrant(t, at)
	return refused
}

// gatewayGrant is what datapathAllowed is for members, but that a gateway's is Netstack where nothing is said.
func (c *Config) gatewayGrant(t *v1alpha1.TenantTunnel, at Site) (g grant, refused string) {
	choice := v1alpha1.DatapathNetstack
	if t.Spec.Gateway != nil {
		choice = cmp.Or(t.Spec.Gateway.Datapath, choice)
	}
	switch choice {
	case v1alpha1.DatapathNetstack:
		return grant{choice: choice}, ""
	case v1alpha1.DatapathAuto, v1alpha1.DatapathTUN, v1alpha1.DatapathKernel:
	default:
		return grant{choice: v1alpha1.DatapathNetstack}, fmt.Sprintf("tunnel %s says spec.gateway.datapath: %s, which a gateway cannot have: set it to Auto, TUN, Kernel or Netstack", t.Name, choice)
	}
	level, says := podSecurity(at.Namespace, c.PodSecurityDefault)
	switch {
	case level == Privileged:
		return grant{choice: choice, netAdmin: true, tun: c.bringsTUN(choice)}, ""
	case choice == v1alpha1.DatapathAuto:
		return grant{choice: v1alpha1.DatapathNetstack, why: fmt.Sprintf("Auto: Netstack; %s, which forbids NET_ADMIN", says)}, ""
	}
	return grant{choice: v1alpha1.DatapathNetstack}, fmt.Sprintf(
		"tunnel %s says spec.gateway.datapath: %s, which needs NET_ADMIN, but %s, which forbids it: have the namespace labelled %s=%s, or set spec.gateway.datapath to Auto or Netstack",
		t.Name, choice, says, enforceLabel, Privileged)
}

// datapathArgs say the datapath where it is not the one that the program has by itself.
func (g *gateway) datapathArgs() (args []string) {
	if g.grant.choice != v1alpha1.DatapathNetstack {
		args = append(args, "--datapath="+string(g.grant.choice))
	}
	if g.grant.why != "" {
		args = append(args, "--datapath-why="+g.grant.why)
	}
	return args
}
