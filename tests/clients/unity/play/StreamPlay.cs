using System;
using System.Collections.Generic;
using UnityEngine;
using static Everscene.Play.Player;

namespace Everscene.Play
{
    /// <summary>EversceneStream, with a real server behind it and a stand-in Unity around it.</summary>
    static class StreamPlay
    {
        static EversceneStream Make(string endpoint, FrameTransport transport = FrameTransport.Auto)
        {
            var stream = new GameObject("stream").AddComponent<EversceneStream>();
            stream.gameObject.AddComponent<Renderer>();
            Set(stream, "endpoint", endpoint);
            Set(stream, "transportWish", transport);
            Call(stream, "Reset");
            return stream;
        }

        static EversceneStream Start(string[] arguments, FrameTransport transport = FrameTransport.Auto)
        {
            EversceneStream stream = Make(arguments[1], transport);
            Call(stream, "OnEnable");
            Until(() => stream.Frame.Number > 0, "a first frame", UpdateOf(stream));
            return stream;
        }

        public static void ThousandFrames(string[] arguments)
        {
            EversceneStream stream = Make(arguments[1]);
            int connected = 0, shown = 0, pictures = 0;
            long last = 0;
            stream.Connected += welcome => connected++;
            stream.OnConnected.AddListener(() => connected++);
            stream.OnFrame.AddListener(texture => pictures++);
            stream.FrameShown += frame =>
            {
                Must(frame.Number > last, "frame numbers rise");
                last = frame.Number;
                shown++;
            };
            Call(stream, "OnEnable");
            Action update = UpdateOf(stream);
            Until(() => stream.Texture != null, "a texture", update);
            stream.Texture.KeepUploads = false;
            Frames(300, update); // what is made once is made by now
            int textures = Texture2D.Made;
            long memory = Settled(), bytes = Allocated();
            for (int i = 0; i < 1000; i++)
            {
                update();
                System.Threading.Thread.Sleep(2);
            }
            bytes = Allocated() - bytes;
            long grown = Settled() - memory;
            Must(connected == 2, "one connection, told to both kinds of listeners, not " + connected);
            Must(shown > 100 && shown == pictures, shown + " frames shown, " + pictures + " told");
            Must(stream.Texture.Applied == shown, "one Apply a frame");
            Must(Texture2D.Made == textures, "no further texture was made");
            Must(grown < 4096, "1,000 updates left " + grown + " bytes behind");
            // Where the runtime counts to the byte: a ping every ten seconds, and nothing for a frame.
            Must(bytes < 8192, "1,000 updates allocated " + bytes + " bytes");
            Call(stream, "OnDisable");
            Call(stream, "OnDestroy");
            Must(stream.Texture == null, "the texture is gone");
        }

        static long Settled()
        {
            GC.Collect();
            GC.WaitForPendingFinalizers();
            return GC.GetTotalMemory(true);
        }

        static long Allocated()
        {
            System.Reflection.MethodInfo method = typeof(GC).GetMethod("GetTotalAllocatedBytes");
            return method == null ? 0 : (long)method.Invoke(null, new object[] { true });
        }

        // The pattern's first row: four pixels whose bytes say content index, crc of the prompt and chunk.
        public static void UprightAndSrgb(string[] arguments)
        {
            EversceneStream stream = Start(arguments);
            Until(() => stream.Frame.Prompt != null, "a prompt with a frame", UpdateOf(stream));
            Texture2D texture = stream.Texture;
            byte[] pixels = texture.Uploaded;
            int lastRow = (texture.height - 1) * texture.width * 4;
            uint chunk = 0;
            for (int i = 8; i < 12; i++) chunk |= (uint)pixels[lastRow + i / 3 * 4 + i % 3] << 8 * (i - 8);
            Must(chunk == stream.Frame.Chunk, "the top row of the picture is the last of the texture: " + chunk + ", " + stream.Frame.Chunk);
            Must(!texture.IsLinear, "the texture is sRGB");
            Must(texture.format == TextureFormat.RGBA32, "the texture is RGBA32");
            Must(texture.wrapMode == TextureWrapMode.Clamp, "the edges do not bleed");
            Call(stream, "OnDisable");
        }

        public static void Targets(string[] arguments)
        {
            EversceneStream stream = Start(arguments);
            Action update = UpdateOf(stream);
            Renderer renderer = stream.TargetRenderer;
            Must(ReferenceEquals(renderer, stream.GetComponent<Renderer>()), "Reset finds the renderer beside it");
            Must(renderer.Sets == 1 && ReferenceEquals(renderer.Block.Set["_MainTex"], stream.Texture), "the material has the texture");
            Must(!renderer.Block.Set.ContainsKey("_MainTex_ST"), "the material's tiling is left alone");
            renderer.sharedMaterial = new Material();
            renderer.sharedMaterial.Properties.Add("_BaseMap");
            stream.Flip = Flip.Horizontal;
            stream.TargetTexture = new RenderTexture(64, 64, 0);
            long frame = stream.Frame.Number;
            Until(() => stream.Frame.Number > frame, "another frame", update);
            Must(ReferenceEquals(renderer.Block.Set["_BaseMap"], stream.Texture), "URP's property is found");
            var st = (Vector4)renderer.Block.Set["_BaseMap_ST"];
            Must(st.x == -1 && st.y == 1 && st.z == 1 && st.w == 0, "the material mirrors it");
            Must(Graphics.Blits > 0 && Graphics.LastScale.x == -1 && Graphics.LastOffset.x == 1, "so does the render texture");
            Call(stream, "OnDisable");
            Must(stream.Texture != null, "the last picture stands while it is disabled");
            Call(stream, "OnDestroy");
            Must(renderer.Block == null, "the renderer is given back");
        }

        public static void AnotherRenderer(string[] arguments)
        {
            EversceneStream stream = Make(arguments[1]);
            Renderer first = stream.TargetRenderer, second = new GameObject("second").AddComponent<Renderer>();
            var tint = new MaterialPropertyBlock();
            tint.SetVector("_Color", new Vector4(1, 0, 0, 1));
            first.SetPropertyBlock(tint);
            Call(stream, "OnEnable");
            Action update = UpdateOf(stream);
            Until(() => stream.Frame.Number > 0, "a first frame", update);
            Must(first.Block.Set.ContainsKey("_MainTex") && first.Block.Set.ContainsKey("_Color"), "what others have set stays");
            stream.TargetRenderer = second;
            Must(!first.Block.Set.ContainsKey("_MainTex"), "the former target has no picture any more");
            Must(first.Block.Set.ContainsKey("_Color"), "and what it had before");
            update();
            Must(ReferenceEquals(second.Block.Set["_MainTex"], stream.Texture), "the new one has it without waiting for a frame");
            Set(stream, "targetRenderer", first);
            Call(stream, "OnValidate");
            update();
            Must(second.Block == null && first.Block.Set.ContainsKey("_MainTex"), "the inspector's choice counts too");
            stream.TargetMaterialProperty = "_Portal";
            update();
            Must(first.Block.Set.ContainsKey("_Portal") && !first.Block.Set.ContainsKey("_MainTex"), "another property, not both");
            stream.TargetRenderer = null;
            Must(first.Block.Set.Count == 1, "no target");
            update();
            Call(stream, "OnDisable");
            Call(stream, "OnDestroy");
            Must(first.Block.Set.Count == 1 && second.Block == null, "all is as before");
        }

        public static void SendAndReceipts(string[] arguments)
        {
            EversceneStream stream = Make(arguments[1]);
            Receipt early = stream.SendEvent("storm");
            Must(early.IsFinal && early.Code == "not_connected", "a disabled component says so");
            Call(stream, "OnEnable");
            Action update = UpdateOf(stream);
            var applied = new List<string>();
            stream.OnEventApplied.AddListener(applied.Add);
            Until(() => stream.IsConnected, "a connection", update);
            Receipt storm = stream.SendEvent("storm", new EventParam("intensity", 0.9f));
            System.Collections.IEnumerator yielded = storm;
            Must(yielded.MoveNext(), "a coroutine waits");
            Until(() => !yielded.MoveNext(), "the coroutine goes on", update);
            Must(storm.IsApplied && storm.Prompt.Contains("heavy storm"), storm.ToString());
            Must(applied.Count == 1 && applied[0] == "storm", "the UnityEvent is called");
            Until(() => !double.IsNaN(storm.SeenMs), "the frame was shown", update);
            stream.TriggerPrompt("a calm harbour at dawn");
            Until(() => stream.Prompt == "a calm harbour at dawn", "the prompt stands", update);
            Receipt wrong = stream.SendEvent("avalanche");
            Until(() => wrong.IsFinal, "a rejection", update);
            Must(wrong.State == ReceiptState.Rejected && wrong.Code == "unknown_event", wrong.ToString());
            Must(stream.Scene.Find("storm") != null && stream.Scene.Find("avalanche") == null, "the scene is known");
            Call(stream, "OnDisable");
        }

        public static void Inline(string[] arguments)
        {
            EversceneStream raw = Start(arguments, FrameTransport.Raw);
            Must(raw.Frame.Transport == Transport.Raw && raw.Texture.format == TextureFormat.RGBA32, "raw pictures");
            Call(raw, "OnDisable");
            EversceneStream jpeg = Start(arguments, FrameTransport.Jpeg);
            int made = Texture2D.Made;
            long first = jpeg.Frame.Number;
            Until(() => jpeg.Frame.Number > first + 3, "more pictures", UpdateOf(jpeg));
            Must(jpeg.Texture.format == TextureFormat.RGB24 && Texture2D.Made == made, "one texture for all JPEGs");
            Call(jpeg, "OnDisable");
        }

        public static void SettingsChange(string[] arguments)
        {
            EversceneStream stream = Make("nonsense:/");
            var problems = new List<string>();
            stream.Failed += problems.Add;
            Call(stream, "OnEnable");
            Action update = UpdateOf(stream);
            update();
            Must(stream.State == ClientState.Stopped && problems.Count == 1, "a wrong endpoint is told once");
            Must(stream.Problem.Contains("nonsense:/"), stream.Problem);
            stream.Endpoint = arguments[1];
            Until(() => stream.IsConnected, "a connection after the endpoint was set", update);
            EversceneClient client = stream.Client;
            Call(stream, "OnValidate");
            update();
            Must(ReferenceEquals(stream.Client, client), "an unrelated change keeps the connection");
            Set(stream, "endpoint", "tcp://127.0.0.1:1");
            Call(stream, "OnValidate");
            update();
            Must(!ReferenceEquals(stream.Client, client) && client.State == ClientState.Stopped, "the inspector's change takes hold");
            Until(() => stream.Problem.Contains("nothing listens"), "words for it", update);
            Call(stream, "OnDisable");
        }

        public static void EditMode(string[] arguments)
        {
            Application.isPlaying = false;
            EversceneStream stream = Make(arguments[1]);
            Call(stream, "OnEnable");
            Must(stream.Client == null, "nothing runs outside of Play mode");
            stream.PreviewInEditMode = true;
            Until(() => stream.Frame.Number > 0, "a preview", UpdateOf(stream));
            stream.PreviewInEditMode = false;
            Must(stream.Client == null, "and it stops again");
        }

        public static void DisabledInACallback(string[] arguments)
        {
            EversceneStream stream = Make(arguments[1]);
            stream.Connected += welcome => Call(stream, "OnDisable");
            Call(stream, "OnEnable");
            Until(() => stream.Client == null, "the callback disabled it", UpdateOf(stream));
            UpdateOf(stream)();
        }
    }
}
