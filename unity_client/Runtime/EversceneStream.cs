using System;
using Unity.Collections;
using Unity.Collections.LowLevel.Unsafe;
using UnityEngine;

namespace Everscene
{
    /// <summary>
    /// Shows the stream of a sidecar in Unity and sends it events. This half holds the life of the component: the client
    /// is made in OnEnable and released in OnDisable, the texture lives until OnDestroy, so that the last picture
    /// stands while the component is switched off. The other half holds what a user sets and reads.
    /// </summary>
    [ExecuteAlways]
    [DefaultExecutionOrder(-100)] // before scripts that send events as they are enabled, and that show the frame in their Update
    [AddComponentMenu("Everscene/Everscene Stream")]
    public sealed partial class EversceneStream : MonoBehaviour
    {
        const int Attempts = 3; // a torn copy is made again at once; that it tears three times in one Update is next to impossible

        EversceneClient client;
        Texture2D texture;
        MaterialPropertyBlock block;
        Renderer rendererInUse;
        MaterialPropertyBlock blockBefore; // of rendererInUse; null = it had none
        string propertyInUse = "";
        bool targetsAreStale = true;
        bool settingsAreStale;
        bool isMirrored;
        FrameInfo frame;
        string problem = "";

        bool ShouldRun => Application.isPlaying || previewInEditMode;

        void OnEnable() => PrepareClient();

        void OnDisable() => ReleaseClient();

        void OnDestroy()
        {
            ReleaseRenderer();
            ReleaseTexture();
        }

        // The inspector's changes arrive here, outside of the frame loop: they are taken up in Update.
        void OnValidate()
        {
            settingsAreStale = true;
            targetsAreStale = true;
        }

        void Update()
        {
            if (settingsAreStale) RestartIfChanged();
            if (client == null) return;
            client.Poll();
            // A callback may have disabled this component.
            if (client == null) return;
            bool taken = TakeFrame();
            if (taken || targetsAreStale && texture != null) UpdateTargets();
            if (!taken) return;
            client.MarkShown(ref frame);
            FrameShown?.Invoke(frame);
            onFrame.Invoke(texture);
        }

        void PrepareClient()
        {
            settingsAreStale = false;
            if (client != null || !ShouldRun) return;
            inUse = Wanted;
            try
            {
                client = new EversceneClient(inUse.ForClient());
            }
            catch (ArgumentException wrong)
            {
                Complain(wrong.Message);
                return;
            }
            problem = "";
            client.Connected += HearConnected;
            client.Disconnected += HearDisconnected;
            client.Failed += Complain;
            client.ReceiptChanged += HearReceipt;
            client.PromptChanged += HearPrompt;
        }

        void ReleaseClient()
        {
            if (client == null) return;
            EversceneClient last = client;
            client = null; // first: a callback that comes out of Dispose must not find it
            last.Dispose();
        }

        void RestartIfChanged()
        {
            settingsAreStale = false;
            if (client != null && inUse.Equals(Wanted) && ShouldRun) return;
            ReleaseClient();
            PrepareClient();
        }

        bool TakeFrame()
        {
            FrameSource source = client.Frames;
            for (int attempt = 0; attempt < Attempts; attempt++)
            {
                FrameInfo next;
                if (!source.TryNext(playback, out next)) return false;
                bool taken = next.Transport == Transport.Jpeg ? TakeJpeg(source, ref next) : TakePixels(source, ref next);
                if (!taken) continue;
                if (next.Prompt == null && next.Order == frame.Order) next.Prompt = frame.Prompt;
                frame = next;
                return true;
            }
            return false;
        }

        // Straight from the ring into the texture's own memory; the GPU sees it only after the copy was found whole.
        unsafe bool TakePixels(FrameSource source, ref FrameInfo next)
        {
            PrepareTexture(next.Width, next.Height, false);
            NativeArray<byte> memory = texture.GetRawTextureData<byte>();
            var start = (IntPtr)NativeArrayUnsafeUtility.GetUnsafePtr(memory);
            // The stream's rows begin at the top, a Unity texture's at the bottom: the copy turns them over on its way.
            if (!source.TryCopy(ref next, start, memory.Length, true)) return false;
            texture.Apply(false, false);
            return true;
        }

        bool TakeJpeg(FrameSource source, ref FrameInfo next)
        {
            byte[] jpeg = source.TakeJpeg(ref next);
            if (jpeg == null) return false;
            PrepareTexture(next.Width, next.Height, true);
            return ImageConversion.LoadImage(texture, jpeg, false); // turns it into RGB24, upright
        }

        // linear: false says that the bytes are sRGB. A linear project then decodes them in the sampler, a gamma project
        // takes them as they are: the picture is the same in both.
        void PrepareTexture(int width, int height, bool anyFormat)
        {
            bool fits = texture != null && texture.width == width && texture.height == height
                && (anyFormat || texture.format == TextureFormat.RGBA32);
            if (fits) return;
            ReleaseTexture();
            texture = new Texture2D(width, height, TextureFormat.RGBA32, false, false)
            {
                name = "Everscene",
                wrapMode = TextureWrapMode.Clamp,
                hideFlags = HideFlags.HideAndDontSave,
            };
            targetsAreStale = true;
        }

        void ReleaseTexture()
        {
            if (texture == null) return;
            if (Application.isPlaying) Destroy(texture);
            else DestroyImmediate(texture);
            texture = null;
        }

        void UpdateTargets()
        {
            Vector2 scale = new Vector2(Mirrors(Flip.Horizontal) ? -1 : 1, Mirrors(Flip.Vertical) ? -1 : 1);
            Vector2 offset = new Vector2(Mirrors(Flip.Horizontal) ? 1 : 0, Mirrors(Flip.Vertical) ? 1 : 0);
            if (targetTexture != null) Graphics.Blit(texture, targetTexture, scale, offset);
            if (!targetsAreStale) return;
            targetsAreStale = false;
            PrepareRenderer();
            if (rendererInUse == null) return;
            rendererInUse.GetPropertyBlock(block);
            block.SetTexture(propertyInUse, texture);
            // Left alone as long as nothing was ever mirrored: the material's own tiling stays.
            if (flip != Flip.None || isMirrored)
                block.SetVector(propertyInUse + "_ST", new Vector4(scale.x, scale.y, offset.x, offset.y));
            isMirrored = flip != Flip.None;
            rendererInUse.SetPropertyBlock(block);
        }

        void PrepareRenderer()
        {
            string property = targetRenderer == null ? "" : PropertyFor(targetRenderer);
            if (rendererInUse == targetRenderer && propertyInUse == property) return;
            ReleaseRenderer();
            if (targetRenderer == null) return;
            if (block == null) block = new MaterialPropertyBlock();
            rendererInUse = targetRenderer;
            propertyInUse = property;
            if (!rendererInUse.HasPropertyBlock()) return;
            blockBefore = new MaterialPropertyBlock();
            rendererInUse.GetPropertyBlock(blockBefore);
        }

        // A single property cannot be taken out of a block: the renderer gets back what it had when it became the target.
        void ReleaseRenderer()
        {
            if (rendererInUse != null) rendererInUse.SetPropertyBlock(blockBefore);
            rendererInUse = null;
            blockBefore = null;
            propertyInUse = "";
            isMirrored = false;
        }

        bool Mirrors(Flip axis) => (flip & axis) != 0;

        void HearConnected(Welcome welcome)
        {
            problem = "";
            Connected?.Invoke(welcome);
            onConnected.Invoke();
        }

        void HearDisconnected(string reason)
        {
            Disconnected?.Invoke(reason);
            onDisconnected.Invoke(reason);
        }

        void HearReceipt(Receipt receipt)
        {
            ReceiptChanged?.Invoke(receipt);
            if (!receipt.IsApplied) return;
            EventApplied?.Invoke(receipt);
            onEventApplied.Invoke(receipt.Name);
        }

        void HearPrompt(string text, long order)
        {
            PromptChanged?.Invoke(text);
            onPrompt.Invoke(text);
        }

        void Complain(string words)
        {
            problem = words;
            Failed?.Invoke(words);
            onError.Invoke(words);
        }
    }
}
