/** A domain as plain data: what is known of a virtual machine, from its XML or from QEMU. */

export interface DomainDescription {
  readonly name: string;
  readonly uuid?: string;
  readonly disks: readonly DiskDescription[];
}

/** A drive of a domain, as its XML has it. */
export interface DiskDescription {
  /** As the guest may call it: "vda". One of each in a domain. */
  readonly target: string;
  /** "virtio", "scsi", "sata", "ide"... */
  readonly bus?: string;
  /** The id of the guest device: "virtio-disk0"; only a domain that runs has it. */
  readonly alias?: string;
  /** "disk", "cdrom", "floppy", "lun". */
  readonly device: string;
  readonly readOnly: boolean;
  /** The format of the image: "qcow2". */
  readonly format?: string;
  /** Absent for an empty drive. */
  readonly source?: DiskSource;
  /** What is below, from the top down, as far as it is described. */
  readonly backing: readonly BackingDescription[];
}

export interface BackingDescription {
  readonly format?: string;
  readonly source: DiskSource;
}

export type DiskSource =
  | { readonly kind: "file" | "block"; readonly path: string }
  | {
      readonly kind: "network";
      /** "nbd", "http", "https"... */
      readonly protocol: string;
      /** The export, or the path on the server. */
      readonly name: string;
      readonly hosts: readonly NetworkHost[];
    }
  /** Of a kind that nothing is known of here: "volume", "nvme", "vhostuser". */
  | { readonly kind: "other"; readonly type: string };

export interface NetworkHost {
  readonly name?: string;
  readonly port?: number;
  /** Path of a Unix socket. */
  readonly socket?: string;
}
