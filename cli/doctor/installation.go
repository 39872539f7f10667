package doctor

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// What the manifests call things.
const (
	operatorName       = "tenantwire-operator"
	webhookName        = "tenantwire"
	webhookService     = "tenantwire-webhook"
	coordinatorService = "tenantwire-coordinator"
	servingSecret      = "tenantwire-serving-cert"
	installCommand     = "kubectl apply --server-side -f manifests/install.yaml"
)

var installationChecks = []Check{
	{"KindMissing", Error, "the cluster knows TenantTunnel, TunnelPeer and TunnelMember", []source{srcKinds}, kindMissing},
	{"KindOutdated", Error, "their definitions have all fields that this version knows", []source{srcKinds}, kindOutdated},
	{"OperatorMissing", Error, "the operator's Deployment is there", []source{srcOperator}, operatorMissing},
	{"OperatorUnavailable", Error, "a replica of the operator is available", []source{srcOperator}, operatorUnavailable},
	{"OperatorDegraded", Warning, "all its replicas are, and are of the version that the Deployment says", []source{srcOperator}, operatorDegraded},
	{"VersionSkew", Warning, "operator, sidecars and gateways that it makes are of one version", []source{srcOperator}, versionSkew},
	{"SidecarOutdated", Warning, "pods have the sidecar that the operator puts into new ones", []source{srcOperator, srcPods}, sidecarOutdated},
	{"WebhookMissing", Error, "the webhook's configuration is there", []source{srcWebhook}, webhookMissing},
	{"WebhookFailsOpen", Error, "pods of opted-in namespaces are refused while the webhook is away", []source{srcWebhook}, webhookFailsOpen},
	{"WebhookUnreachable", Error, "a pod is behind the webhook's Service", []source{srcSystemSlices}, func(f *Facts) []Finding {
		return unreachable(f, webhookService, "pods of opted-in namespaces cannot be created")
	}},
	{"CoordinatorUnreachable", Error, "a pod is behind the coordinator's Service", []source{srcSystemSlices}, func(f *Facts) []Finding {
		return unreachable(f, coordinatorService, "new members wait, and those that run hear of no changes")
	}},
}

func (f *Facts) operator() string { return "deployment " + f.System + "/" + operatorName }

func kindMissing(f *Facts) (out []Finding) {
	for _, resource := range ourKinds {
		if f.Kinds[resource.plural] == nil {
			out = append(out, Finding{Object: "customresourcedefinition " + resource.crd(), What: "the cluster does not know the kind " + resource.kind,
				Evidence: "there is no such definition", Fix: installCommand})
		}
	}
	return out
}

func kindOutdated(f *Facts) (out []Finding) {
	for _, resource := range ourKinds {
		crd := f.Kinds[resource.plural]
		if crd == nil {
			continue
		}
		schema := servedSchema(crd)
		if schema == nil {
			out = append(out, Finding{Object: "customresourcedefinition " + resource.crd(), What: "version " + v1alpha1.GroupVersion.Version + " is not served", Fix: installCommand})
			continue
		}
		if lacking := lackingFields(schema, reflect.TypeOf(resource.object), ""); len(lacking) > 0 {
			out = append(out, Finding{Object: "customresourcedefinition " + resource.crd(), What: "the API server drops fields that this version writes",
				Evidence: "the definition lacks " + few(lacking), Fix: installCommand})
		}
	}
	return out
}

// servedSchema is the schema of our version; nil: it is not served.
func servedSchema(crd *unstructured.Unstructured) map[string]any {
	versions, _, _ := unstructured.NestedSlice(crd.Object, "spec", "versions")
	for _, v := range versions {
		m, ok := v.(map[string]any)
		if ok && m["name"] == v1alpha1.GroupVersion.Version && m["served"] == true {
			schema, _, _ := unstructured.NestedMap(m, "schema", "openAPIV3Schema")
			return schema
		}
	}
	return nil
}

// lackingFields are the paths of our types' fields that a schema has no properties for.
func lackingFields(schema map[string]any, t reflect.Type, path string) (out []string) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		if t.Kind() == reflect.Slice {
			schema, _ = schema["items"].(map[string]any)
		}
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || !strings.HasSuffix(t.PkgPath(), "/v1alpha1") || schema == nil {
		return nil
	}
	properties, _ := schema["properties"].(map[string]any)
	for i := range t.NumField() {
		field := t.Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if field.Type == reflect.TypeOf(metav1.ObjectMeta{}) || field.Type == reflect.TypeOf(metav1.TypeMeta{}) {
			continue
		}
		if name == "" { // inline
			out = append(out, lackingFields(schema, field.Type, path)...)
			continue
		}
		below, ok := properties[name].(map[string]any)
		if !ok {
			out = append(out, strings.TrimPrefix(path+"."+name, "."))
			continue
		}
		out = append(out, lackingFields(below, field.Type, path+"."+name)...)
	}
	return out
}

func operatorMissing(f *Facts) []Finding {
	if f.Operator != nil {
		return nil
	}
	return []Finding{{Object: f.operator(), What: "nobody decides on tunnels, peers and members, and pods of opted-in namespaces cannot be created",
		Evidence: "there is no such Deployment", Fix: installCommand}}
}

func wanted(d *appsv1.Deployment) int32 {
	if d.Spec.Replicas != nil {
		return *d.Spec.Replicas
	}
	return 1
}

func operatorUnavailable(f *Facts) []Finding {
	d := f.Operator
	if d == nil || d.Status.AvailableReplicas > 0 {
		return nil
	}
	fix := fmt.Sprintf("kubectl -n %s describe pods -l app.kubernetes.io/name=%s", f.System, operatorName)
	if wanted(d) == 0 {
		fix = fmt.Sprintf("kubectl -n %s scale deployment/%s --replicas=2", f.System, operatorName)
	}
	return []Finding{{Object: f.operator(), What: "no replica of the operator is available: pods of opted-in namespaces cannot be created, tunnels keep what they have",
		Evidence: fmt.Sprintf("0 of %d replicas are available", wanted(d)), Fix: fix}}
}

func operatorDegraded(f *Facts) []Finding {
	d := f.Operator
	if d == nil || d.Status.AvailableReplicas == 0 {
		return nil
	}
	s := d.Status
	if s.AvailableReplicas >= wanted(d) && s.UpdatedReplicas >= wanted(d) && s.ObservedGeneration >= d.Generation {
		return nil
	}
	return []Finding{{Object: f.operator(), What: "not all replicas of the operator are available, or a rollout is under way or stuck",
		Evidence: fmt.Sprintf("of %d replicas %d are available and %d up to date", wanted(d), s.AvailableReplicas, s.UpdatedReplicas),
		Fix:      fmt.Sprintf("kubectl -n %s rollout status deployment/%s", f.System, operatorName)}}
}

// images are the operator's own, and those that it puts into pods.
func images(d *appsv1.Deployment) (own, sidecar, gateway string) {
	for _, c := range d.Spec.Template.Spec.Containers {
		if c.Name != "operator" {
			continue
		}
		own = c.Image
		for _, a := range c.Args {
			if v, ok := strings.CutPrefix(a, "--sidecar-image="); ok {
				sidecar = v
			}
			if v, ok := strings.CutPrefix(a, "--gateway-image="); ok {
				gateway = v
			}
		}
	}
	return own, sidecar, gateway
}

// tag is an image's, without a digest; empty: it has none.
func tag(image string) string {
	image, _, _ = strings.Cut(image, "@")
	if i := strings.LastIndexByte(image, ':'); i > strings.LastIndexByte(image, '/') {
		return image[i+1:]
	}
	return ""
}

func versionSkew(f *Facts) []Finding {
	if f.Operator == nil {
		return nil
	}
	own, sidecar, gateway := images(f.Operator)
	for _, other := range []string{sidecar, gateway} {
		if tag(own) != "" && tag(other) != "" && tag(other) != tag(own) {
			return []Finding{{Object: f.operator(), What: "operator and data plane are not of one version", Evidence: fmt.Sprintf("the operator is %s, and makes pods with %s", own, other),
				Fix: installCommand}}
		}
	}
	return nil
}

func sidecarOutdated(f *Facts) (out []Finding) {
	if f.Operator == nil {
		return nil
	}
	_, image, _ := images(f.Operator)
	old := map[string][]string{}
	for i := range f.Pods {
		p := &f.Pods[i]
		if c := sidecarOf(p); c != nil && alive(p) && image != "" && c.Image != image {
			old[p.Namespace] = append(old[p.Namespace], p.Name+" ("+c.Image+")")
		}
	}
	for ns, pods := range old {
		slices.Sort(pods)
		out = append(out, Finding{Object: "namespace " + ns, What: "pods run another version of the sidecar than new ones get",
			Evidence: few(pods) + "; new ones get " + image, Fix: fmt.Sprintf("kubectl -n %s rollout restart deployment", ns)})
	}
	return out
}

func webhookMissing(f *Facts) []Finding {
	if f.Webhook != nil && len(f.Webhook.Webhooks) > 0 {
		return nil
	}
	return []Finding{{Object: "mutatingwebhookconfiguration " + webhookName, What: "pods of opted-in namespaces get no sidecar, and send in plaintext",
		Evidence: "there is no such configuration, or no webhook in it", Fix: installCommand}}
}

func webhookFailsOpen(f *Facts) (out []Finding) {
	if f.Webhook == nil {
		return nil
	}
	for _, w := range f.Webhook.Webhooks {
		if w.FailurePolicy != nil && *w.FailurePolicy != admissionv1.Fail {
			out = append(out, Finding{Object: "mutatingwebhookconfiguration " + webhookName, What: "pods start without a sidecar, and send in plaintext, while the webhook is away",
				Evidence: fmt.Sprintf("webhook %s has failurePolicy %s", w.Name, *w.FailurePolicy), Fix: installCommand})
		}
	}
	return out
}

func unreachable(f *Facts, service, consequence string) []Finding {
	if f.Operator == nil && f.known([]source{srcOperator}) || len(readyBehind(f.SystemSlice, f.System, service)) > 0 {
		return nil
	}
	return []Finding{{Object: "service " + f.System + "/" + service, What: "nobody answers for the Service: " + consequence, Evidence: "no EndpointSlice of it has a ready endpoint",
		Fix: fmt.Sprintf("kubectl -n %s get pods,endpointslices -o wide", f.System)}}
}
