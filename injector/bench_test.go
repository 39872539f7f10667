package injector

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// BenchmarkDecide is the whole of a request but its transport: parse, decide, patch. The namespace has 100 Services, the tunnel
// carries 20 of them.
func BenchmarkDecide(b *testing.B) {
	in := testInput()
	for i := range 100 {
		name := fmt.Sprintf("svc-%d", i)
		in.Services = append(in.Services, corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "shop"},
			Spec: corev1.ServiceSpec{Selector: map[string]string{"app": name}, Ports: []corev1.ServicePort{{Port: 80}, {Port: 9090}}}})
		if i < 20 {
			in.Tunnels[0].Spec.Expose = append(in.Tunnels[0].Spec.Expose, v1alpha1.ExposedService{Service: name})
		}
	}
	raw := finish(b, in).Raw
	for _, bench := range []struct {
		name string
		raw  []byte
	}{{"new", raw}, {"injected", mustPatch(b, *in, Decide(*in))}} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(bench.raw)))
			for b.Loop() {
				pod, err := ParsePod(bench.raw)
				if err != nil {
					b.Fatal(err)
				}
				request := *in
				request.Raw, request.Pod = bench.raw, pod
				d := Decide(request)
				if d.Plan == nil {
					b.Fatal(d.Message)
				}
				if _, err := Patch(bench.raw, d.Plan); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
