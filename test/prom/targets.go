package prom

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/tenantwire/tenantwire/test/kit"
)

// targetsFile is where Prometheus finds pods, with the labels that its discovery of pods gives them. The test asks the API server in its
// place: client-go, compiled for Prometheus, would take longer than all the rest of it.
const targetsFile = "pods.json"

type target struct {
	Targets []string          `json:"targets"`
	Labels  map[string]string `json:"labels"`
}

// discover keeps the file current until the test ends.
func (p *Prometheus) discover(c *kit.Cluster) {
	p.t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(p.t.Context()))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			if err := p.writeTargets(ctx, c); err != nil && ctx.Err() == nil {
				p.t.Logf("look for pods: %v", err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}()
	p.t.Cleanup(func() {
		cancel()
		<-ended
	})
}

func (p *Prometheus) writeTargets(ctx context.Context, c *kit.Cluster) error {
	var pods corev1.PodList
	if err := c.List(ctx, &pods); err != nil {
		return err
	}
	out := []target{}
	for i := range pods.Items {
		out = append(out, targets(&pods.Items[i])...)
	}
	b, err := json.Marshal(out)
	if err != nil {
		return err
	}
	if err := os.WriteFile(p.file("new"), b, 0o600); err != nil {
		return err
	}
	return os.Rename(p.file("new"), p.file(targetsFile))
}

// targets are the ports that a pod's containers declare, once it has an address.
func targets(pod *corev1.Pod) (out []target) {
	if pod.Status.PodIP == "" {
		return nil
	}
	for _, c := range slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers) {
		for _, port := range c.Ports {
			l := map[string]string{
				"__meta_kubernetes_namespace": pod.Namespace, "__meta_kubernetes_pod_name": pod.Name, "__meta_kubernetes_pod_phase": string(pod.Status.Phase),
				"__meta_kubernetes_pod_container_name": c.Name, "__meta_kubernetes_pod_container_port_name": port.Name,
			}
			for key, v := range pod.Labels {
				value, present := metaLabel(key)
				l[value], l[present] = v, "true"
			}
			out = append(out, target{[]string{net.JoinHostPort(pod.Status.PodIP, strconv.Itoa(int(port.ContainerPort)))}, l})
		}
	}
	return out
}
