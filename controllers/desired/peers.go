package desired

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
)

// PeersName is the name of the Service by which the pods of a server find each
// other.
func PeersName(server string) string { return server + "-peers" }

// Peers gives the pods each other's addresses, also those of pods that are not
// ready: they may have what another one lacks.
func Peers(p Parameters) *corev1ac.ServiceApplyConfiguration {
	return corev1ac.Service(PeersName(p.Server.Name), p.Server.Namespace).
		WithLabels(Labels(p.Server.Name)).
		WithOwnerReferences(owner(p.Server)).
		WithSpec(corev1ac.ServiceSpec().
			WithType(corev1.ServiceTypeClusterIP).
			WithClusterIP(corev1.ClusterIPNone).
			WithPublishNotReadyAddresses(true).
			WithSelector(Pods(p.Server.Name)).
			WithPorts(corev1ac.ServicePort().
				WithName("http").WithProtocol(corev1.ProtocolTCP).
				WithPort(HTTPPort).WithTargetPort(intstr.FromInt32(HTTPPort))))
}

// peersArgs tells sync of the peers. Pods with one volume for all have nothing
// to give to each other.
func peersArgs(p Parameters) []string {
	if p.Server.Spec.Storage.Type == v1alpha1.StorageShared {
		return nil
	}
	return []string{fmt.Sprintf("--peers=%s.%s.svc:%d", PeersName(p.Server.Name), p.Server.Namespace, HTTPPort)}
}
