package kit

import (
	"fmt"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// TUNResource is what brings /dev/net/tun into pods of the cluster that test/cluster starts.
const TUNResource = "tenantwire.test/tun"

// tunFlags have the operator give pods what the nodes of test/cluster offer.
var tunFlags = []any{"--tun-resource=" + TUNResource, "--tun-for-auto"}

// everyDatapath is what the tunnels of all tests ask for that do not ask for another, in namespaces that allow it. Tests of what is
// only true without it fail then.
var everyDatapath = v1alpha1.DatapathChoice(os.Getenv("TENANTWIRE_TEST_DATAPATH"))

func ourNodes() bool {
	state := os.Getenv("TW_STATE")
	return state != "" && os.Getenv("KUBECONFIG") == filepath.Join(state, "kubeconfig")
}

func tunDevice() bool {
	_, err := os.Stat("/dev/net/tun")
	return err == nil
}

// offerTUN has an operator on nodes of ours know what these offer.
func offerTUN(u *unstructured.Unstructured) {
	containers, _, err := unstructured.NestedSlice(u.Object, "spec", "template", "spec", "containers")
	if err != nil || len(containers) == 0 || !ourNodes() || !tunDevice() {
		return
	}
	c := containers[0].(map[string]any)
	args, _ := c["args"].([]any)
	c["args"] = append(args, tunFlags...)
	_ = unstructured.SetNestedSlice(u.Object, containers, "spec", "template", "spec", "containers")
}

// NeedTUN skips a test of the TUN device where no node offers it, and waits until all do.
func (c *Cluster) NeedTUN(t T) {
	t.Helper()
	NeedNodes(t)
	if !tunDevice() {
		t.Skipf("this machine has no /dev/net/tun, so its nodes offer none. NOT TESTED: injected pods with a TUN device")
	}
	Eventually(t, Deadline, "TUN devices of every node", func() error {
		var nodes corev1.NodeList
		if err := c.List(t.Context(), &nodes); err != nil {
			return err
		}
		for _, n := range nodes.Items {
			if q := n.Status.Allocatable[TUNResource]; q.IsZero() {
				return fmt.Errorf("%s offers none", n.Name)
			}
		}
		return nil
	})
}

// KernelWireGuard says whether the nodes' kernel has WireGuard.
func KernelWireGuard(t T, node string) bool {
	t.Helper()
	NeedNodes(t)
	if _, err := nodeExec(t.Context(), node, "ip", "link", "add", "twprobe", "type", "wireguard"); err != nil {
		return false
	}
	NodeExec(t, node, "ip", "link", "del", "twprobe")
	return true
}
