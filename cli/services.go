package cli

import (
	"slices"
	"strings"

	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// serviceReport is an exposed Service as peers see it.
type serviceReport struct {
	Service   string   `json:"service"`
	Name      string   `json:"name"` // that the gateway answers for
	Addresses []string `json:"addresses"`
}

// reportServices are the Services that have addresses of their own, sorted by name.
func reportServices(t *v1alpha1.TenantTunnel) (out []serviceReport) {
	for _, s := range t.Status.Services {
		out = append(out, serviceReport{s.Service, s.Service + "." + tenant.Domain(t), s.Addresses})
	}
	slices.SortFunc(out, func(a, b serviceReport) int { return strings.Compare(a.Service, b.Service) })
	return out
}

func (s *serviceReport) row(t *tunnelReport) []string {
	return []string{t.Namespace, s.Service, t.Name, s.Name, strings.Join(s.Addresses, ",")}
}

// routesAsSeen lists a peer's routes, each with what the tunnel uses in its place, where that is another range.
func routesAsSeen(routes []string, mappings []v1alpha1.RouteMapping) string {
	out := slices.Clone(routes)
	for i, r := range out {
		if at := slices.IndexFunc(mappings, func(m v1alpha1.RouteMapping) bool { return m.Route == r }); at >= 0 {
			out[i] += " as " + mappings[at].MapTo
		}
	}
	return strings.Join(out, ",")
}
