package tenant

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

func tcp(n int32) v1alpha1.Port { return v1alpha1.Port{Port: n, Protocol: v1alpha1.TCP} }
func udp(n int32) v1alpha1.Port { return v1alpha1.Port{Port: n, Protocol: v1alpha1.UDP} }

func TestParseExpose(t *testing.T) {
	for value, want := range map[string][]v1alpha1.Port{
		"": nil, "  ": nil, "8080": {tcp(8080)}, "8080, 53/udp": {udp(53), tcp(8080)}, "53/UDP,53/tcp,53": {tcp(53), udp(53)}, "65535/TCP": {tcp(65535)},
	} {
		got, err := ParseExpose(value)
		if err != nil || !cmp.Equal(got, want) {
			t.Errorf("%q: got %v, %v; want %v", value, got, err, want)
		}
	}
	for value, names := range map[string]string{
		"80,": `""`, "0": `"0"`, "65536": `"65536"`, "-1": `"-1"`, "+80": `"+80"`, "http": `"http"`, "80/sctp": `"80/sctp"`, "80/": `"80/"`,
		"80/tcp/x": `"80/tcp/x"`, "80 81": `"80 81"`, "8080;53": `"8080;53"`, "080": `"080"`, "0x50": `"0x50"`, strings.Repeat("9", 9999): "...",
	} {
		_, err := ParseExpose(value)
		if err == nil || !strings.Contains(err.Error(), names) || !strings.Contains(err.Error(), "53/udp") || len(err.Error()) > 300 {
			t.Errorf("%.20q: error %v does not name the element and what would be right", value, err)
		}
	}
}

func TestParseExposeIsBounded(t *testing.T) {
	var many []string
	for i := range MaxPorts + 1 {
		many = append(many, fmt.Sprint(1000+i))
	}
	if _, err := ParseExpose(strings.Join(many, ",")); err == nil || !strings.Contains(err.Error(), "257") {
		t.Errorf("257 ports: %v", err)
	}
	if ports, err := ParseExpose(strings.Join(many[1:], ",")); err != nil || len(ports) != MaxPorts {
		t.Errorf("256 ports: %d, %v", len(ports), err)
	}
}

func TestPodPorts(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	port := func(n int32, p corev1.Protocol) corev1.ContainerPort {
		return corev1.ContainerPort{ContainerPort: n, Protocol: p}
	}
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		Containers: []corev1.Container{
			{Name: "app", Ports: []corev1.ContainerPort{port(8080, ""), port(53, corev1.ProtocolUDP), port(99, corev1.ProtocolSCTP)}},
			{Name: "metrics", Ports: []corev1.ContainerPort{port(9090, corev1.ProtocolTCP), port(8080, corev1.ProtocolTCP)}},
		},
		InitContainers: []corev1.Container{
			{Name: SidecarName, RestartPolicy: &always, Ports: []corev1.ContainerPort{port(51820, corev1.ProtocolUDP)}},
			{Name: "proxy", RestartPolicy: &always, Ports: []corev1.ContainerPort{port(15001, "")}},
			{Name: "migrate", Ports: []corev1.ContainerPort{port(1, "")}},
		},
	}}
	pod.Annotations = map[string]string{v1alpha1.AnnotationExpose: "22"}
	want := []v1alpha1.Port{tcp(22), udp(53), tcp(8080), tcp(9090), tcp(15001)}
	if got, err := PodPorts(pod); err != nil || !cmp.Equal(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	pod.Annotations[v1alpha1.AnnotationExpose] = "ssh"
	if got, err := PodPorts(pod); err == nil || !cmp.Equal(got, want[1:]) {
		t.Errorf("with a bad annotation: got %v, %v; want the declared ones and an error", got, err)
	}
}

func FuzzParseExpose(f *testing.F) {
	f.Add("8080, 53/udp")
	f.Fuzz(func(t *testing.T, value string) {
		ports, err := ParseExpose(value)
		if err != nil {
			return
		}
		for i, p := range ports {
			if p.Port < 1 || p.Port > 65535 || p.Protocol != v1alpha1.TCP && p.Protocol != v1alpha1.UDP {
				t.Fatalf("%q: %v", value, p)
			}
			if i > 0 && ports[i-1] == p {
				t.Fatalf("%q: %v twice", value, p)
			}
		}
	})
}
