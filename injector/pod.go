package injector

import (
	"fmt"
	"path"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// notStatic refuses the API server's mirror of a static pod. The kubelet runs the pod itself from a file, without a sidecar; and the
// annotation must not be a way around a tunnel that requires membership.
func notStatic(c *candidate) finding {
	if _, ok := c.Pod.Annotations[corev1.MirrorPodAnnotationKey]; !ok {
		return finding{}
	}
	return finding{StaticPod, fmt.Sprintf("metadata.annotations[%s]: static pods cannot join a tunnel; run it in another namespace", corev1.MirrorPodAnnotationKey)}
}

func notWindows(c *candidate) finding {
	spec := &c.Pod.Spec
	if spec.OS != nil && spec.OS.Name == corev1.Windows {
		return finding{WindowsPod, "spec.os.name: there is no sidecar for windows; run the pod in another namespace or let it opt out"}
	}
	if spec.NodeSelector[corev1.LabelOSStable] == string(corev1.Windows) {
		return finding{WindowsPod, fmt.Sprintf("spec.nodeSelector[%s]: there is no sidecar for windows; run the pod in another namespace or let it opt out", corev1.LabelOSStable)}
	}
	return finding{}
}

func ownNetwork(c *candidate) finding {
	if !c.Pod.Spec.HostNetwork {
		return finding{}
	}
	return finding{HostNetwork, "spec.hostNetwork: a pod in the node's network cannot join a tunnel; remove it or let the pod opt out"}
}

// reservedMounts keeps the sidecar's files to the sidecar: its key is on one of the volumes.
func reservedMounts(c *candidate) finding {
	return c.containers(func(field string, ct *corev1.Container) finding {
		for i, m := range ct.VolumeMounts {
			if strings.HasPrefix(m.Name, VolumePrefix) {
				return finding{ReservedMount, fmt.Sprintf("%s.volumeMounts[%d].name: volumes named %s... are the sidecar's alone", field, i, VolumePrefix)}
			}
			if p := path.Clean("/" + m.MountPath); p == IdentityPath || strings.HasPrefix(p, IdentityPath+"/") {
				return finding{ReservedMount, fmt.Sprintf("%s.volumeMounts[%d].mountPath: %s is reserved; use another path", field, i, IdentityPath)}
			}
		}
		return finding{}
	})
}

// isolated tells of settings that weaken the wall around the sidecar's memory, where its key is. The tenant may have reasons.
func isolated(c *candidate) finding {
	spec := &c.Pod.Spec
	if spec.ShareProcessNamespace != nil && *spec.ShareProcessNamespace {
		c.warn("spec.shareProcessNamespace: a container of this pod that runs as root can read the sidecar's key")
	}
	if spec.HostPID {
		c.warn("spec.hostPID: a container of this pod that runs as root can read the sidecar's key")
	}
	c.warnRuled()
	return finding{}
}
