package kit

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// tail is how much of a log is worth reading.
const tail = 60

// Dump logs what helps to see why a test failed: tunnels, members, pods, events, and the ends of the logs.
func (n *Namespace) Dump(ctx context.Context) {
	var b strings.Builder
	fmt.Fprintf(&b, "namespace %s\n", n.Name)
	n.dumpTunnels(ctx, &b)
	var pods corev1.PodList
	_ = n.List(ctx, &pods, client.InNamespace(n.Name))
	for i := range pods.Items {
		fmt.Fprintf(&b, "pod %s: %s\n", pods.Items[i].Name, Describe(&pods.Items[i]))
	}
	var events corev1.EventList
	_ = n.List(ctx, &events, client.InNamespace(n.Name))
	for _, e := range events.Items {
		if e.Type != corev1.EventTypeNormal {
			fmt.Fprintf(&b, "event %s %s: %s: %s\n", e.InvolvedObject.Kind, e.InvolvedObject.Name, e.Reason, e.Message)
		}
	}
	for i := range pods.Items {
		n.dumpLogs(ctx, &b, &pods.Items[i])
	}
	system := &Namespace{Cluster: n.Cluster, T: n.T, Name: SystemNamespace}
	_ = n.List(ctx, &pods, client.InNamespace(SystemNamespace))
	for i := range pods.Items {
		system.dumpLogs(ctx, &b, &pods.Items[i])
	}
	n.T.Logf("%s", b.String())
}

func (n *Namespace) dumpTunnels(ctx context.Context, b *strings.Builder) {
	var tunnels v1alpha1.TenantTunnelList
	_ = n.List(ctx, &tunnels, client.InNamespace(n.Name))
	for _, t := range tunnels.Items {
		fmt.Fprintf(b, "tunnel %s: deleted %v %+v\n", t.Name, t.DeletionTimestamp, t.Status)
	}
	var members v1alpha1.TunnelMemberList
	_ = n.List(ctx, &members, client.InNamespace(n.Name))
	for _, m := range members.Items {
		fmt.Fprintf(b, "member %s: %+v %+v\n", m.Name, m.Spec, m.Status)
	}
}

func (n *Namespace) dumpLogs(ctx context.Context, b *strings.Builder, p *corev1.Pod) {
	for i, c := range append(p.Spec.InitContainers[:len(p.Spec.InitContainers):len(p.Spec.InitContainers)], p.Spec.Containers...) {
		if i > 6 {
			break // the largest test has thirty pods; a few containers of each tell enough
		}
		text, err := n.Logs(ctx, p.Name, corev1.PodLogOptions{Container: c.Name, TailLines: ptr.To[int64](tail)})
		if err != nil {
			text = err.Error()
		}
		fmt.Fprintf(b, "log of %s/%s/%s:\n%s\n", n.Name, p.Name, c.Name, text)
	}
}
