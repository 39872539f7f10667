package controller

import (
	"cmp"
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// FieldOwner is the operator's name in managedFields.
const FieldOwner = client.FieldOwner("tenantwire-operator")

// object is an apply configuration: exactly the fields that we own and no zero value beside them.
type object = map[string]any

func apply(ctx context.Context, c client.Client, o object) (*unstructured.Unstructured, error) {
	u := &unstructured.Unstructured{Object: o}
	err := c.Apply(ctx, client.ApplyConfigurationFromUnstructured(u), FieldOwner, client.ForceOwnership)
	if err != nil {
		return nil, fmt.Errorf("apply %s %s/%s: %w", u.GetKind(), u.GetNamespace(), u.GetName(), err)
	}
	return u, nil
}

func applyStatus(ctx context.Context, c client.Client, kind string, m *metav1.ObjectMeta, status object) error {
	return applyStatusTo(ctx, c, kind, m, identity(m.Namespace, m.Name, m.UID), status)
}

func applyStatusTo(ctx context.Context, c client.Client, kind string, m *metav1.ObjectMeta, identity, status object) error {
	u := &unstructured.Unstructured{Object: object{"apiVersion": v1alpha1.GroupVersion.String(), "kind": kind, "metadata": identity, "status": status}}
	if err := c.Status().Apply(ctx, client.ApplyConfigurationFromUnstructured(u), FieldOwner, client.ForceOwnership); err != nil {
		return fmt.Errorf("apply the status of %s %s/%s: %w", kind, m.Namespace, m.Name, err)
	}
	return nil
}

// identity names the object to apply to. A UID makes the API server refuse an object that took the name since.
func identity(namespace, name string, uid types.UID) object {
	meta := object{"namespace": namespace, "name": name}
	if uid != "" {
		meta["uid"] = string(uid)
	}
	return meta
}

func memberObject(namespace string, m tenant.DesiredMember) object {
	meta := identity(namespace, m.Name, m.Existing)
	meta["labels"] = object{v1alpha1.LabelTunnel: m.Tunnel}
	meta["ownerReferences"] = []any{object{"apiVersion": "v1", "kind": "Pod", "name": m.Name, "uid": string(m.PodUID)}}
	ports := make([]any, 0, len(m.Ports))
	for _, p := range m.Ports {
		ports = append(ports, object{"port": int64(p.Port), "protocol": string(p.Protocol)})
	}
	return object{
		"apiVersion": v1alpha1.GroupVersion.String(), "kind": "TunnelMember", "metadata": meta,
		"spec": object{"tunnel": m.Tunnel, "role": string(cmp.Or(m.Role, v1alpha1.RoleMember)), "podUID": string(m.PodUID), "addresses": anySlice(m.Addresses), "ports": ports},
	}
}

// anySlice is a list as an apply configuration holds it.
func anySlice(list []string) []any {
	out := make([]any, 0, len(list))
	for _, s := range list {
		out = append(out, s)
	}
	return out
}

func caObject(namespace string, bundle []byte, owners []metav1.OwnerReference) object {
	meta := identity(namespace, tenant.CAConfigMap, "")
	meta["labels"] = object{labelManagedBy: managedBy}
	refs := make([]any, 0, len(owners))
	for _, o := range owners {
		refs = append(refs, object{"apiVersion": o.APIVersion, "kind": o.Kind, "name": o.Name, "uid": string(o.UID)})
	}
	meta["ownerReferences"] = refs
	return object{"apiVersion": corev1.SchemeGroupVersion.String(), "kind": "ConfigMap", "metadata": meta,
		"data": object{tenant.CAKey: string(bundle)}}
}

func conditionObjects(conditions ...metav1.Condition) []any {
	out := make([]any, 0, len(conditions))
	for _, c := range conditions {
		out = append(out, object{
			"type": c.Type, "status": string(c.Status), "reason": c.Reason, "message": c.Message,
			"observedGeneration": c.ObservedGeneration, "lastTransitionTime": c.LastTransitionTime.UTC().Format("2006-01-02T15:04:05Z"),
		})
	}
	return out
}

func tunnelStatusObject(s v1alpha1.TenantTunnelStatus) object {
	addressing := object{}
	if s.Addressing.IPv6Prefix != "" {
		addressing["ipv6Prefix"] = s.Addressing.IPv6Prefix
	}
	if s.Addressing.IPv4Pool != "" {
		addressing["ipv4Pool"] = s.Addressing.IPv4Pool
	}
	datapaths := make([]any, 0, len(s.Datapaths))
	for _, d := range s.Datapaths {
		datapaths = append(datapaths, object{"datapath": string(d.Datapath), "members": int64(d.Members)})
	}
	status := object{
		"observedGeneration": s.ObservedGeneration,
		"conditions":         conditionObjects(s.Conditions...),
		"addressing":         addressing,
		"members":            object{"total": int64(s.Members.Total), "ready": int64(s.Members.Ready)},
		"datapaths":          datapaths,
	}
	if s.Version != "" {
		status["version"] = s.Version
	}
	if g := s.Gateway; g != nil {
		status["gateway"] = object{"publicKey": g.PublicKey, "active": g.Active, "addresses": anySlice(g.Addresses),
			"egress": egressPortObjects(g.Egress)}
	}
	if len(s.Services) > 0 {
		status["services"] = serviceAddressObjects(s.Services)
	}
	return status
}
