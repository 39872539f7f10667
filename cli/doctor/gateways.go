package doctor

import (
	"fmt"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

var gatewayChecks = []Check{
	{"GatewayNotActive", Error, "one of a gateway's pods is active", []source{srcTunnels}, gatewayNotActive},
	{"GatewayLeaseStale", Error, "it renews its Lease", []source{srcTunnels, srcLeases, srcServer}, gatewayLeaseStale},
	{"GatewayServiceEmpty", Error, "its Service leads to it", []source{srcTunnels, srcServices, srcSlices}, gatewayServiceEmpty},
	{"LoadBalancerPending", Error, "a gateway's load balancer has an address", []source{srcTunnels, srcServices}, loadBalancerPending},
}

func eachGateway(f *Facts, visit func(t *v1alpha1.TenantTunnel)) {
	for i := range f.Tunnels {
		if t := &f.Tunnels[i]; t.Spec.Gateway != nil && f.serverNow().Sub(t.CreationTimestamp.Time) > aMoment {
			visit(t)
		}
	}
}

func gatewayPods(t *v1alpha1.TenantTunnel) string {
	return fmt.Sprintf("kubectl -n %s get pods -l %s=%s,%s=%s", t.Namespace, v1alpha1.LabelRole, v1alpha1.LabelRoleGateway, v1alpha1.LabelTunnel, t.Name)
}

func gatewayNotActive(f *Facts) (out []Finding) {
	eachGateway(f, func(t *v1alpha1.TenantTunnel) {
		if t.Status.Gateway != nil && t.Status.Gateway.Active != "" {
			return
		}
		out = append(out, Finding{Object: tunnelName(t), What: "no pod of the tunnel's gateway is active: outside peers reach nothing, and nothing reaches them", Evidence: "status.gateway.active is empty", Fix: gatewayPods(t)})
	})
	return out
}

func (f *Facts) lease(namespace, name string) *coordinationv1.Lease {
	for i := range f.Leases {
		if l := &f.Leases[i]; l.Namespace == namespace && l.Name == name {
			return l
		}
	}
	return nil
}

func gatewayLeaseStale(f *Facts) (out []Finding) {
	eachGateway(f, func(t *v1alpha1.TenantTunnel) {
		l := f.lease(t.Namespace, tenant.GatewayName(t.Name))
		if l == nil || l.Spec.RenewTime == nil || l.Spec.HolderIdentity == nil || *l.Spec.HolderIdentity == "" {
			return // gatewayNotActive speaks of it
		}
		if age := f.Server.Sub(l.Spec.RenewTime.Time); age > 15*time.Second {
			out = append(out, Finding{Object: "lease " + t.Namespace + "/" + l.Name, What: "the active gateway does not renew its Lease, and nobody else takes it: nothing leaves the gateway",
				Evidence: fmt.Sprintf("%s renewed it %s ago", *l.Spec.HolderIdentity, age.Round(time.Second)), Fix: gatewayPods(t) + ", and their logs"})
		}
	})
	return out
}

func gatewayServiceEmpty(f *Facts) (out []Finding) {
	eachGateway(f, func(t *v1alpha1.TenantTunnel) {
		name := tenant.GatewayName(t.Name)
		s := f.service(t.Namespace, name)
		switch {
		case s == nil:
			out = append(out, Finding{Object: "service " + t.Namespace + "/" + name, What: "the gateway's Service does not exist: outside peers have nothing to dial", Evidence: "there is no such Service", Fix: f.describe(t)})
		case len(readyBehind(f.Slices, t.Namespace, name)) == 0:
			out = append(out, Finding{Object: "service " + t.Namespace + "/" + name, What: "nobody is behind the gateway's Service: what outside peers send is lost", Evidence: "no EndpointSlice of it has a ready endpoint", Fix: gatewayPods(t)})
		}
	})
	return out
}

func loadBalancerPending(f *Facts) (out []Finding) {
	eachGateway(f, func(t *v1alpha1.TenantTunnel) {
		s := f.service(t.Namespace, tenant.GatewayName(t.Name))
		if s == nil || s.Spec.Type != corev1.ServiceTypeLoadBalancer || len(s.Status.LoadBalancer.Ingress) > 0 || len(t.Spec.Gateway.Endpoints) > 0 {
			return
		}
		out = append(out, Finding{Object: "service " + t.Namespace + "/" + s.Name, What: "the gateway's load balancer has no address: outside peers do not know what to dial", Evidence: "status.loadBalancer.ingress is empty",
			Fix: fmt.Sprintf("kubectl -n %s describe service %s; or type NodePort, or spec.gateway.endpoints", t.Namespace, s.Name)})
	})
	return out
}
