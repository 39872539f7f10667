package injector

import (
	"slices"
	"strings"
	"testing"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// TestNames: Services first, each part sorted, addresses counted over all of 127.77.0.0/16, a host of a Service's name left out.
func TestNames(t *testing.T) {
	in := testInput()
	tunnel := &in.Tunnels[0]
	tunnel.Spec.Expose, tunnel.Spec.Egress = nil, nil
	for i := 299; i >= 0; i-- {
		name := "s" + strings.Repeat("a", i)
		tunnel.Spec.Expose = append(tunnel.Spec.Expose, v1alpha1.ExposedService{Service: name})
	}
	for _, h := range []string{"z.example", "a.example", "s"} {
		tunnel.Spec.Egress = append(tunnel.Spec.Egress, v1alpha1.EgressHost{Host: h, Ports: []v1alpha1.Port{{Port: 5000}}})
	}
	d := Decide(finish(t, in))
	if d.Plan == nil {
		t.Fatal(d.Message)
	}
	names := d.Plan.Names
	if len(names) != 302 || names[0].Name != "s" || names[300].Name != "a.example" || names[301].Name != "z.example" {
		t.Fatalf("%d names, first %q, last %q", len(names), names[0].Name, names[len(names)-1].Name)
	}
	for i, want := range map[int]string{0: "127.77.0.1", 254: "127.77.0.255", 255: "127.77.1.0", 301: "127.77.1.46"} {
		if got := names[i].Address.String(); got != want {
			t.Errorf("name %d is at %s, want %s", i, got, want)
		}
	}
	if want := []string{"s", "s.shop", "s.shop.svc", "s.shop.svc.cluster.local"}; !slices.Equal(names[0].Hostnames, want) {
		t.Errorf("hostnames %q", names[0].Hostnames)
	}
	if want := []string{"a.example"}; !slices.Equal(names[300].Hostnames, want) {
		t.Errorf("hostnames %q", names[300].Hostnames)
	}
}
