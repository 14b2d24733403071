// Command volumes provisions the volume claims of a cluster with one node: each volume is a folder of the node.
package main

import (
	"context"
	"flag"
	"log"
	"os"
	"path/filepath"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"
)

// name is the provisioner of the storage class in manifests/storage.yaml.
const name = "eticket.test/folder"

// provisioner has the folder of all volumes.
type provisioner struct{ root string }

func (p provisioner) Provision(_ context.Context, options controller.ProvisionOptions) (*core.PersistentVolume, controller.ProvisioningState, error) {
	folder := filepath.Join(p.root, options.PVName)
	if err := os.MkdirAll(folder, 0o777); err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	// The umask restricts what MkdirAll creates, and the users of pods differ.
	if err := os.Chmod(folder, 0o777); err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	claim := options.PVC.Spec
	volume := &core.PersistentVolume{
		ObjectMeta: meta.ObjectMeta{Name: options.PVName},
		Spec: core.PersistentVolumeSpec{
			AccessModes:                   claim.AccessModes,
			Capacity:                      core.ResourceList{core.ResourceStorage: claim.Resources.Requests[core.ResourceStorage]},
			PersistentVolumeReclaimPolicy: *options.StorageClass.ReclaimPolicy,
			PersistentVolumeSource:        core.PersistentVolumeSource{HostPath: &core.HostPathVolumeSource{Path: folder}},
		},
	}
	return volume, controller.ProvisioningFinished, nil
}

func (p provisioner) Delete(_ context.Context, volume *core.PersistentVolume) error {
	return os.RemoveAll(filepath.Join(p.root, volume.Name))
}

func main() {
	kubeconfig := flag.String("kubeconfig", "", "kubeconfig file")
	root := flag.String("root", "", "folder of the volumes")
	flag.Parse()
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		log.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	one := controller.LeaderElection(false)
	controller.NewProvisionController(ctx, client, name, provisioner{*root}, one).Run(ctx)
}
