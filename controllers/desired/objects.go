package desired

import (
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	metav1ac "k8s.io/client-go/applyconfigurations/meta/v1"
	networkingv1ac "k8s.io/client-go/applyconfigurations/networking/v1"
	policyv1ac "k8s.io/client-go/applyconfigurations/policy/v1"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
)

// Parameters is everything that the objects of a server are made from.
type Parameters struct {
	Server *v1alpha1.PluginServer
	// Catalog is the encoded catalog.
	Catalog []byte
	// Image of the pods where the server names none, and its pull secrets.
	Image            string
	ImagePullSecrets []string
	// ArtifactURL is the operator's address for blobs and catalogs.
	ArtifactURL string
	// OperatorNamespace is where the operator runs.
	OperatorNamespace string
}

// Objects gives all objects of a server in the order in which they are
// applied: what pods need comes before the pods.
func Objects(p Parameters) []runtime.ApplyConfiguration {
	common := []runtime.ApplyConfiguration{ServiceAccount(p), NetworkPolicy(p), Service(p), PodDisruptionBudget(p)}
	if p.Server.Spec.Server.Type == v1alpha1.ServerImage {
		return append(common, Deployment(p))
	}
	own := append([]runtime.ApplyConfiguration{ConfigMap(p)}, common...)
	return append(append(own, Peers(p)), workload(p)...)
}

// ConfigMap holds the catalog.
func ConfigMap(p Parameters) *corev1ac.ConfigMapApplyConfiguration {
	return corev1ac.ConfigMap(CatalogName(p.Server.Name), p.Server.Namespace).
		WithLabels(Labels(p.Server.Name)).
		WithOwnerReferences(owner(p.Server)).
		WithBinaryData(map[string][]byte{CatalogKey: p.Catalog})
}

// ServiceAccount of the pods. It has no rights, and its token is not mounted.
func ServiceAccount(p Parameters) *corev1ac.ServiceAccountApplyConfiguration {
	return corev1ac.ServiceAccount(p.Server.Name, p.Server.Namespace).
		WithLabels(Labels(p.Server.Name)).
		WithOwnerReferences(owner(p.Server)).
		WithAutomountServiceAccountToken(false)
}

// Service in front of the pods.
func Service(p Parameters) *corev1ac.ServiceApplyConfiguration {
	service := corev1ac.Service(p.Server.Name, p.Server.Namespace).
		WithLabels(Labels(p.Server.Name)).
		WithOwnerReferences(owner(p.Server)).
		WithSpec(corev1ac.ServiceSpec().
			WithType(corev1.ServiceTypeClusterIP).
			WithSelector(Pods(p.Server.Name)).
			WithPorts(corev1ac.ServicePort().
				WithName("http").WithProtocol(corev1.ProtocolTCP).
				WithPort(ServicePort).WithTargetPort(intstr.FromInt32(HTTPPort))))
	if len(p.Server.Spec.Service.Annotations) > 0 {
		service.WithAnnotations(p.Server.Spec.Service.Annotations)
	}
	return service
}

// PodDisruptionBudget lets go of one pod at a time, and of any that is not healthy: a drain is never blocked for ever.
func PodDisruptionBudget(p Parameters) *policyv1ac.PodDisruptionBudgetApplyConfiguration {
	return policyv1ac.PodDisruptionBudget(p.Server.Name, p.Server.Namespace).
		WithLabels(Labels(p.Server.Name)).
		WithOwnerReferences(owner(p.Server)).
		WithSpec(policyv1ac.PodDisruptionBudgetSpec().
			WithMaxUnavailable(intstr.FromInt32(1)).
			WithUnhealthyPodEvictionPolicy(policyv1.AlwaysAllow).
			WithSelector(metav1ac.LabelSelector().WithMatchLabels(Pods(p.Server.Name))))
}

// NetworkPolicy lets everybody fetch plugins, and nobody but the operator and
// other pods of the server reach the ops port. The pods may talk to the
// operator, to each other and to DNS, and to nothing else.
func NetworkPolicy(p Parameters) *networkingv1ac.NetworkPolicyApplyConfiguration {
	siblings := networkingv1ac.NetworkPolicyPeer().
		WithPodSelector(metav1ac.LabelSelector().WithMatchLabels(Pods(p.Server.Name)))
	operator := networkingv1ac.NetworkPolicyPeer().
		WithNamespaceSelector(metav1ac.LabelSelector().WithMatchLabels(map[string]string{corev1.LabelMetadataName: p.OperatorNamespace}))
	return networkingv1ac.NetworkPolicy(p.Server.Name, p.Server.Namespace).
		WithLabels(Labels(p.Server.Name)).
		WithOwnerReferences(owner(p.Server)).
		WithSpec(networkingv1ac.NetworkPolicySpec().
			WithPodSelector(metav1ac.LabelSelector().WithMatchLabels(Members(p.Server.Name))).
			WithPolicyTypes(networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress).
			WithIngress(
				networkingv1ac.NetworkPolicyIngressRule().WithPorts(tcp(HTTPPort)),
				networkingv1ac.NetworkPolicyIngressRule().WithFrom(operator).WithPorts(tcp(OpsPort)),
			).
			WithEgress(
				networkingv1ac.NetworkPolicyEgressRule().WithTo(operator).WithPorts(tcp(ArtifactPort)),
				networkingv1ac.NetworkPolicyEgressRule().WithTo(siblings).WithPorts(tcp(HTTPPort)),
				networkingv1ac.NetworkPolicyEgressRule().WithPorts(port(corev1.ProtocolUDP, 53), tcp(53)),
			))
}

func tcp(number int32) *networkingv1ac.NetworkPolicyPortApplyConfiguration {
	return port(corev1.ProtocolTCP, number)
}

func port(protocol corev1.Protocol, number int32) *networkingv1ac.NetworkPolicyPortApplyConfiguration {
	return networkingv1ac.NetworkPolicyPort().WithProtocol(protocol).WithPort(intstr.FromInt32(number))
}

func owner(server *v1alpha1.PluginServer) *metav1ac.OwnerReferenceApplyConfiguration {
	return metav1ac.OwnerReference().
		WithAPIVersion(v1alpha1.GroupVersion.String()).WithKind("PluginServer").
		WithName(server.Name).WithUID(server.UID).
		WithController(true).WithBlockOwnerDeletion(true)
}
